"""What the engine must know of a model with an image tower: a learning rate of its own, layers gathered one by one."""

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from truepair.engine.loop.optimizer import OptimizerConfig
from truepair.engine.loop.step import TrainingStep
from truepair.models.dual.base import DualEncoder
from truepair.models.fusion.downstream import DownstreamModel

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

    def part_of(self, name: str) -> str:
        """The image tower, or all else."""
        return IMAGE if name in self._image_weights else ""

    def gathered_by_layer(self) -> list[nn.Module]:
        """The image towers of the model and of its copies."""
        towers = (_image_tower(module) for module in self.modules())
        return [tower for tower in towers if tower is not None]

    @cached_property
    def _image_weights(self) -> frozenset[str]:
        """Names of the weights of the model's image tower."""
        tower = _image_tower(self.model)
        own = set() if tower is None else {id(weight) for weight in tower.parameters()}
        return frozenset(name for name, weight in self.named_parameters() if id(weight) in own)


def _image_tower(module: nn.Module) -> nn.Module | None:
    """What encodes images in a model; None of other modules."""
    if isinstance(module, DualEncoder):
        return module.image_tower
    return module.image_encoder if isinstance(module, DownstreamModel) else None
