"""What the engine must know of a model with two towers: rates of their own, layer by layer, and what to gather."""

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from truepair.engine.loop.optimizer import OptimizerConfig
from truepair.engine.loop.step import TrainingStep
from truepair.errors import ConfigError
from truepair.models.dual.base import DualEncoder
from truepair.models.dual.blocks import TowerBlocks
from truepair.models.fusion.blip2_language import Blip2LanguageModel
from truepair.models.fusion.downstream import DownstreamModel
from truepair.settings import Rate

IMAGE, TEXT = "image", "text"


@dataclass(frozen=True, kw_only=True)
class TowerOptimizerConfig(OptimizerConfig):
    """How the weights move, those of the towers at learning rates of their own.

    Attributes:
        image_learning_rate: peak learning rate of the image encoder; ``learning_rate`` when absent (SRCL: 1e-5).
        text_learning_rate: peak learning rate of the text encoder, or of the language model of a BLIP-2;
            ``learning_rate`` when absent. Projections, temperature and bias, and what reads image and text together,
            always have ``learning_rate``.
    """

    image_learning_rate: Rate | None = None
    text_learning_rate: Rate | None = None

    def __post_init__(self) -> None:
        for name, rate in (("image", self.image_learning_rate), ("text", self.text_learning_rate)):
            if rate is not None and rate <= 0:
                raise ConfigError(
                    f"optimizer.{name}_learning_rate is {rate}; give a positive number, or set model.freeze_{name}"
                )
        super().__post_init__()

    def peak(self, part: str) -> float:
        """Peak learning rate of the image tower, of the text tower, or of all else."""
        own = {IMAGE: self.image_learning_rate, TEXT: self.text_learning_rate}.get(part)
        return self.learning_rate if own is None else own


class TowerStep(TrainingStep):
    """A step whose model has two towers; every rank calls that of images equally often, whatever the captions are."""

    def part_of(self, name: str) -> str:
        """The image tower, the text tower, or all else."""
        return self._parts.get(name, "")

    def layers_above(self, name: str) -> int:
        """How many layers of its tower stand above a weight; 0 for weights behind the blocks and outside the towers.

        Raises:
            ConfigError: a tower has no blocks.
        """
        return self._layers.get(name, 0)

    def gathered_by_layer(self) -> list[nn.Module]:
        """The image towers of the model and of its copies."""
        towers = (_tower(module, IMAGE) for module in self.modules())
        return [tower for tower in towers if tower is not None]

    @cached_property
    def _parts(self) -> dict[str, str]:
        """The tower of each weight that belongs to one, by the weight's name."""
        towers = {side: _tower(self.model, side) for side in (IMAGE, TEXT)}
        sides = {weight: side for side, tower in towers.items() if tower is not None for weight in tower.parameters()}
        return {name: sides[weight] for name, weight in self.named_parameters() if weight in sides}

    @cached_property
    def _layers(self) -> dict[str, int]:
        """The number of layers above each weight of the towers, by the weight's name."""
        above: dict[nn.Parameter, int] = {}
        for side in (IMAGE, TEXT):
            tower = _tower(self.model, side)
            if tower is None or not any(weight.requires_grad for weight in tower.parameters()):
                continue
            blocks = TowerBlocks(tower)
            if not len(blocks):
                raise ConfigError(f"optimizer.layer_decay needs blocks, and the {side} tower has none; set it to 1")
            above |= blocks.layers_above()
        return {name: above[weight] for name, weight in self.named_parameters() if weight in above}


def _tower(module: nn.Module, side: str) -> nn.Module | None:
    """What encodes images or texts in a model; None of other modules."""
    if isinstance(module, DualEncoder):
        return module.image_tower if side == IMAGE else module.text_tower
    if isinstance(module, DownstreamModel | Blip2LanguageModel):
        tower: nn.Module = module.image_encoder if side == IMAGE else module.text_encoder
        return tower
    return None
