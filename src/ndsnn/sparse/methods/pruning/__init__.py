"""Methods that only take connections away: once before training, by and by, or round after round."""
