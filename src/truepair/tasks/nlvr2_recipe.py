"""A fine-tuning recipe for statements about two images."""

from dataclasses import dataclass, field, replace

from truepair.data.nlvr2_source import Nlvr2Source
from truepair.errors import ConfigError
from truepair.tasks.assignment import AssignmentConfig
from truepair.tasks.start import StartConfig
from truepair.tasks.task_samples import sample_nlvr2
from truepair.training.loop_config import LoopConfig
from truepair.training.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class Nlvr2DataConfig:
    """Where statements come from.

    Attributes:
        sample: folder for the statements about the bundled drawings; they are written if it is not there, and stand for
            all that is not stated below.
        train: files of statements; several become one set.
        validation: files for validation figures; empty for none.
        test: files whose statements are judged in the end; scored where their labels are known.
    """

    sample: str | None = None
    train: list[Nlvr2Source] = field(default_factory=list)
    validation: list[Nlvr2Source] = field(default_factory=list)
    test: list[Nlvr2Source] = field(default_factory=list)

    def filled(self) -> "Nlvr2DataConfig":
        """The same with the files of the sample in place of what is not stated.

        Raises:
            ConfigError: there is nothing to train on.
        """
        if self.sample is not None:
            files = sample_nlvr2(self.sample)
            return replace(
                self,
                sample=None,
                train=self.train or [files["train"]],
                validation=self.validation or [files["val"]],
                test=self.test or [files["test"]],
            )
        if not self.train:
            raise ConfigError("data.train names no files; state some, or data.sample")
        return self


@dataclass(frozen=True, kw_only=True)
class Nlvr2Recipe:
    """Fine-tuning on statements about two images.

    Attributes:
        data: where statements come from.
        model: what is started from, and which parts move.
        assignment: text assignment, which the model is trained on first; absent for none.
        batch_size: statements judged at once in evaluation.
        optimizer: how the weights move.
        loop: how long and how.
    """

    data: Nlvr2DataConfig = field(default_factory=Nlvr2DataConfig)
    model: StartConfig = field(default_factory=StartConfig)
    assignment: AssignmentConfig | None = None
    batch_size: int = 64
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        first = self.assignment.loop if self.assignment is not None else self.loop
        if (first.precision, first.cpu) != (self.loop.precision, self.loop.cpu):
            raise ConfigError("assignment.loop and loop run in one process; give both the same precision and cpu")
