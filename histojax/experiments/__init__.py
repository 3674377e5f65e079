"""A config and all that it starts from, checked, trained in order and summarised."""
