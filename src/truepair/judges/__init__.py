"""Judges give pairs a probability of matching."""
