"""Deployable networks out: folding, and one module for each format."""
