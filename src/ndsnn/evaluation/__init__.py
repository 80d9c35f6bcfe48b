"""Looking at what was made: the engine's speed and memory on this machine."""
