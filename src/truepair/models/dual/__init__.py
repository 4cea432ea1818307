"""Models that compare images and texts by one feature each: the protocols of all models, and hub models as such."""
