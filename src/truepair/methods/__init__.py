"""The step and its parts: rules, judges in the batch, SRCL, momentum; from a recipe to objects."""
