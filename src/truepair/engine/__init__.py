"""Trains any step: loop, checkpoints, processes, logs. It knows no method and no model."""
