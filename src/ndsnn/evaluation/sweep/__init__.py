"""Grids of runs: what their cells are, what they will cost, and where they are trained."""
