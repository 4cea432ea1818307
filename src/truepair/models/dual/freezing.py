"""Which weights of a dual encoder are trained: whole towers, all but their first blocks, or their norms alone."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from truepair.errors import ConfigError
from truepair.models.dual.base import DualEncoder
from truepair.models.dual.blocks import TowerBlocks


@dataclass(frozen=True, kw_only=True)
class Freezing:
    """What of a dual encoder is not trained. Projections, temperature and bias always are.

    Attributes:
        image: the image tower is not trained.
        text: the text tower is not trained.
        image_blocks: the embeddings and so many first blocks of the image tower are not trained; 0 for none.
        text_blocks: the same of the text tower.
        train_only: "all", or "norms": of the towers no more than the scale and shift of their norms is trained, a
            strong baseline where pairs are few (Kim et al. 2021, How to adapt your large-scale vision-and-language
            model).
    """

    image: bool = False
    text: bool = False
    image_blocks: int = 0
    text_blocks: int = 0
    train_only: Literal["all", "norms"] = "all"


def freeze(model: DualEncoder, config: Freezing) -> None:
    """Freeze what is not trained.

    Frozen weights get no gradient. Frozen towers, embeddings and blocks stay in evaluation mode, so that their dropout
    does not make other states each time, and no graph is built through them.

    Raises:
        ConfigError: a tower has no such blocks.
    """
    model.freeze(image=config.image, text=config.text)
    towers = (("image", model.image_tower, config.image_blocks), ("text", model.text_tower, config.text_blocks))
    for side, tower, count in towers:
        if count:
            blocks = TowerBlocks(tower)
            _require_blocks(side, count, len(blocks))
            model.rest(blocks.first_modules(count), blocks.first_parameters(count))
        if config.train_only == "norms":
            norms = {weight for module in tower.modules() if _is_norm(module) for weight in module.parameters()}
            model.rest([], [weight for weight in tower.parameters() if weight not in norms])


def describe_trained(model: DualEncoder) -> str:
    """One line that says how many of how many parameters are trained, and where they are."""
    of_image, of_text = (set(tower.parameters()) for tower in (model.image_tower, model.text_tower))
    rest = set(model.parameters()) - of_image - of_text
    total, trained = _counts(set(model.parameters()))
    parts = {"image tower": of_image, "text tower": of_text, "projections and all else": rest}
    places = ", ".join("{} {:,} of {:,}".format(name, *_counts(weights)[::-1]) for name, weights in parts.items())
    return f"{trained:,} of {total:,} parameters are trained ({trained / total:.1%}): {places}"


def _counts(weights: set[nn.Parameter]) -> tuple[int, int]:
    """How many numbers there are, and how many of them are trained."""
    return sum(w.numel() for w in weights), sum(w.numel() for w in weights if w.requires_grad)


def _require_blocks(side: str, asked: int, found: int) -> None:
    if asked < 0 or asked > found:
        has = f"{found} blocks" if found else "no blocks"
        raise ConfigError(f"model.freeze_{side}_blocks is {asked}, but the {side} tower has {has}; give 0 to {found}")


def _is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm itself; libraries have more of them than torch."""
    return "norm" in type(module).__name__.lower() and not any(module.children())
