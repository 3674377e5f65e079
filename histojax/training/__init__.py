"""The one loop, what it watches and what it writes."""
