"""A whole pre-training run on the pictures of squares, without dropout."""

from dataclasses import dataclass, replace
from pathlib import Path

from training.test_pretrain import recipe_for, silent
from truepair.tasks.pretraining import pretrain
from truepair.training.recipe import PretrainRecipe

BATCH = 8  # over all ranks


@dataclass(frozen=True)
class SquaresRun:
    """Two epochs with a batch of 8 over all ranks."""

    squares: Path
    folder: Path
    ranks: int = 1
    micro_batch: int = 0

    @property
    def recipe(self) -> PretrainRecipe:
        loop = {"epochs": 2, "batch_size": BATCH // self.ranks, "micro_batch": self.micro_batch}
        recipe = recipe_for(self.squares, **loop)
        options = recipe.model.options | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return replace(recipe, model=replace(recipe.model, options=options))

    def go(self) -> None:
        pretrain(self.recipe, self.folder, silent)
