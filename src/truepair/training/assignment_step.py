"""One step of text assignment, the pre-training that ALBEF and MAFA put before NLVR2."""

import torch

from truepair.data.collate import PairBatch
from truepair.data.randomness import stable_hash
from truepair.models.nlvr2 import Nlvr2Model
from truepair.training.moment import Moment
from truepair.training.task_states import States
from truepair.training.training_step import StepOutput, TrainingStep


class AssignmentStep(TrainingStep):
    """Which of two images does a caption belong to: the first, the second, or neither?

    Args:
        model: with ``assignment_head``; its classifier is left out of training.
        states: which encoders are frozen.
        seed: seed of the run.
    """

    def __init__(self, model: Nlvr2Model, states: States, *, seed: int) -> None:
        super().__init__(model)
        states.freeze(model)
        model.classifier.requires_grad_(False)
        self.states = states
        self.seed = seed

    def forward(self, batch: PairBatch, moment: Moment) -> StepOutput:
        """Compute the loss of a batch of pairs.

        Args:
            batch: B pairs.
            moment: where the run stands; which images are drawn depends on its step and on the batch.
        """
        generator = torch.Generator(batch.input_ids.device)
        generator.manual_seed(stable_hash(self.seed, moment.step, int(batch.index[0]), "text assignment"))
        images, texts = self.states(self.model, batch)
        return StepOutput({"loss": self.model.assignment_loss(batch, generator, images, texts)})
