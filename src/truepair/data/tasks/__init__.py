"""Data of downstream tasks."""
