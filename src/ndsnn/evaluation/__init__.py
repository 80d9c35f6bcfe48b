"""Looking at what was made: speed and memory, grids of runs, and reports of them."""
