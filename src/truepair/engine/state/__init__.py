"""Checkpoints and what is in them."""
