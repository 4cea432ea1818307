"""A whole pre-training run on the pictures of squares, without dropout."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.tasks.test_pretraining import recipe_for, silent
from truepair.methods.momentum import MomentumConfig
from truepair.methods.recipe import PretrainRecipe
from truepair.tasks.pretraining import pretrain

BATCH = 8  # over all ranks


@dataclass(frozen=True)
class SquaresRun:
    """Two epochs with a batch of 8 over all ranks.

    Attributes:
        squares: Folder of the pictures.
        folder: Of the run.
        ranks: Processes of the run.
        loop: Further fields of the loop.
        momentum: A momentum model, if there is to be one.
    """

    squares: Path
    folder: Path
    ranks: int = 1
    loop: dict[str, Any] = field(default_factory=dict)
    momentum: MomentumConfig | None = None

    @property
    def recipe(self) -> PretrainRecipe:
        recipe = recipe_for(self.squares, **{"epochs": 2, "batch_size": BATCH // self.ranks} | self.loop)
        options = recipe.model.options | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return replace(recipe, model=replace(recipe.model, options=options), momentum=self.momentum)

    def go(self) -> None:
        pretrain(self.recipe, self.folder, silent)
