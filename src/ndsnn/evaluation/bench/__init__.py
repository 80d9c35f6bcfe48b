"""Speed and memory of the engine against dense PyTorch, on this machine."""
