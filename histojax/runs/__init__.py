"""A workdir and what it holds: checkpoints, the trained run read back, the data that it knows."""
