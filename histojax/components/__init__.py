"""What stages are put together from: state, losses with their networks, scores, pyramid scales."""
