"""Runs of several rounds: lottery tickets (LTH)."""
