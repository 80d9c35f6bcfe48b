"""Modules of other frameworks: what an adapter tells of them, and what becomes of their states."""
