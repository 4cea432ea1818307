"""One step of fine-tuning on a downstream task."""

from typing import Any

from truepair.models.downstream import DownstreamModel
from truepair.training.moment import Moment
from truepair.training.task_states import States
from truepair.training.training_step import StepOutput, TrainingStep


class FinetuneStep(TrainingStep):
    """The loss of a task's model on a batch.

    Args:
        model: what is trained.
        states: where the states of images and texts come from.
    """

    def __init__(self, model: DownstreamModel, states: States) -> None:
        super().__init__(model)
        states.freeze(model)
        self.states = states

    def forward(self, batch: Any, moment: Moment) -> StepOutput:
        """Compute the loss of a batch.

        Args:
            batch: what the task's collator made.
            moment: where the run stands; a task's loss is the same throughout.
        """
        return StepOutput({"loss": self.model.loss(batch, *self.states(self.model, batch))})
