"""Weights in and out, under official names."""
