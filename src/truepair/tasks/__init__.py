"""Downstream tasks, one file each, on a pre-trained model."""
