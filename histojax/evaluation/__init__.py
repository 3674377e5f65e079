"""What is scored against what, the scores of a run, and runs compared."""
