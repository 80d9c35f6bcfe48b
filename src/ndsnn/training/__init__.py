"""Training runs: the loop, its directory, checkpoints, and what it costs."""
