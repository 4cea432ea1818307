"""What the engine must know of a model with an image tower: a learning rate of its own, layers gathered one by one."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from truepair.engine.loop.optimizer import OptimizerConfig
from truepair.engine.loop.step import TrainingStep

IMAGE = "image"


@dataclass(frozen=True, kw_only=True)
class TowerOptimizerConfig(OptimizerConfig):
    """How the weights move, those of the image tower at a learning rate of their own.

    Attributes:
        image_learning_rate: peak learning rate of the image encoder; ``learning_rate`` when absent (SRCL: 1e-5).
    """

    image_learning_rate: float | None = None

    def peak(self, part: str) -> float:
        """Peak learning rate of the image tower, or of all else."""
        if part == IMAGE and self.image_learning_rate is not None:
            return self.image_learning_rate
        return self.learning_rate


class TowerStep(TrainingStep):
    """A step whose model has an image tower; every rank calls that equally often, whatever the captions are."""

    image_tower: ClassVar[str] = "image_encoder"
    """Name of the module that encodes images, in the model and in copies of it."""

    def part_of(self, name: str) -> str:
        """The image tower, or all else."""
        return IMAGE if f"{self.image_tower}." in name else ""

    def gathered_by_layer(self) -> list[nn.Module]:
        """The image towers of the model and of its copies."""
        return [module for name, module in self.named_modules() if name.endswith(f".{self.image_tower}")]
