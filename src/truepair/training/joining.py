"""Which losses a run gets to train: one that starts after the last epoch never joins."""

from truepair.training.itm import ItmConfig
from truepair.training.mlm import MlmConfig
from truepair.training.recipe import PretrainRecipe


def trains_itm(recipe: PretrainRecipe) -> bool:
    """Whether the ITM head is trained at all."""
    return recipe.objectives.itm.due(recipe.loop.epochs - 1)


def never_joining(recipe: PretrainRecipe) -> list[str]:
    """One line for each loss that the recipe asks for, and that comes too late."""
    parts: dict[str, ItmConfig | MlmConfig] = {"itm": recipe.objectives.itm, "mlm": recipe.objectives.mlm}
    return [
        f"{name.upper()} is not trained: objectives.{name}.start_epoch is {part.start_epoch}, and the run ends after "
        f"{recipe.loop.epochs} epochs"
        for name, part in parts.items()
        if part.weight > 0 and not part.due(recipe.loop.epochs - 1)
    ]
