"""Fine-tuning on any downstream task: the engine of pre-training, with a task's data, loss and figures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedModel

from truepair.data.preprocessing import Preprocessing
from truepair.models.downstream import DownstreamModel
from truepair.training.finetune_step import FinetuneStep
from truepair.training.loader import VisitedDataset
from truepair.training.loop import TrainingLoop
from truepair.training.loop_config import LoopConfig
from truepair.training.optimizer import OptimizerConfig
from truepair.training.run_result import RunResult
from truepair.training.selection import take_best
from truepair.training.task_states import States
from truepair.training.training_step import TrainingBatch

Say = Callable[[str], None]


class FinetuneTask(Protocol):
    """What a downstream task states to be trained; its loss is that of its model.

    Attributes:
        model: heads on a pre-trained checkpoint.
        preprocessing: written beside the model.
    """

    model: DownstreamModel
    preprocessing: Preprocessing

    def train_dataset(self) -> VisitedDataset:
        """What is trained on."""
        ...

    def train_states(self) -> States:
        """Where the states of its images and texts come from."""
        ...

    def collate(self, samples: Sequence[Any]) -> TrainingBatch:
        """Make a batch of samples."""
        ...

    def figures(self, model: PreTrainedModel) -> dict[str, float]:
        """Figures of the model on the validation data; empty without such data."""
        ...

    @property
    def validates(self) -> bool:
        """Whether there is validation data."""
        ...


def finetune(
    task: FinetuneTask, loop: LoopConfig, optimizer: OptimizerConfig, run_folder: Path
) -> tuple[RunResult, bool]:
    """Train a task's model to the end of the run, or go on where it was stopped.

    The model that is left, in memory and in ``run_folder/model``, is the best on the validation data where
    ``loop.best_figure`` says so.

    Args:
        task: what is trained.
        loop: how long and how.
        optimizer: how the weights move.
        run_folder: where checkpoints, logs and the model go.

    Returns:
        The run, and whether this process is the first, which evaluates.

    Raises:
        TruepairError: anything that does not fit, in one line.
    """
    engine = TrainingLoop(
        FinetuneStep(task.model, task.train_states()),
        task.train_dataset(),
        task.preprocessing,
        task.collate,
        loop=loop,
        optimizer=optimizer,
        run_folder=run_folder,
        evaluator=task.figures if task.validates else None,
    )
    run = engine.run()
    main = engine.accelerator.is_main_process
    if main:
        take_best(engine.model, run)
    return run, main
