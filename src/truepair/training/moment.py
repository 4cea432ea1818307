"""Where a run stands."""

from typing import NamedTuple


class Moment(NamedTuple):
    """Where a run stands when a step begins.

    Attributes:
        epoch: Epoch, counted from 0.
        step: Finished optimizer steps.
        total_steps: Optimizer steps of the whole run.
        steps_per_epoch: Optimizer steps of an epoch.
        logged: Whether figures of this step go to the log, so that costly ones are worth computing.
    """

    epoch: int
    step: int
    total_steps: int
    steps_per_epoch: int
    logged: bool = False

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return self.step / self.total_steps
