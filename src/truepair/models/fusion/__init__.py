"""Models whose fusion encoder reads pairs: ALBEF, and those of downstream tasks."""
