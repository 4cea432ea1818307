"""The pre-training run: recipe, step, loop, checkpoints and log."""
