"""When a checkpoint is due."""

import time

from truepair.training.loop_config import LoopConfig


class CheckpointSchedule:
    """Steps and minutes between checkpoints.

    Args:
        config: ``checkpoint_every`` and ``checkpoint_minutes``.
        steps_per_epoch: optimizer steps of an epoch.

    Attributes:
        step: step of the last checkpoint; -1 before the first.
    """

    def __init__(self, config: LoopConfig, steps_per_epoch: int) -> None:
        self.every = config.checkpoint_every or steps_per_epoch
        self.last = config.epochs * steps_per_epoch
        self.seconds = 60 * config.checkpoint_minutes
        self.step = -1
        self._time = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a step ends with a checkpoint; the last one does."""
        return step % self.every == 0 or step == self.last

    def minutes_are_over(self) -> bool:
        """Whether the last checkpoint is too long ago; clocks differ, so one rank decides."""
        return bool(self.seconds) and time.monotonic() - self._time >= self.seconds

    def note(self, step: int) -> None:
        """Take note that there is a checkpoint of a step."""
        self.step = step
        self._time = time.monotonic()
