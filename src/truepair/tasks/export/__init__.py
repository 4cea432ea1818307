"""Verdicts on the way to other programs: what is known of each cell, and files of the kinds that they read."""
