"""Retrieval fine-tuning: pre-training's step with ITC and ITM on clean pairs, from a pre-trained model."""

from dataclasses import replace
from pathlib import Path

from truepair.data.preprocessing import Preprocessing
from truepair.errors import ConfigError
from truepair.tasks.finetuning import Say
from truepair.tasks.pretraining import pretrain
from truepair.tasks.retrieval import RetrievalResult
from truepair.training.recipe import PretrainRecipe


def finetune_retrieval(recipe: PretrainRecipe, run_folder: Path, say: Say) -> RetrievalResult | None:
    """Fine-tune on retrieval, and measure the model that is left on the test split.

    The recipe is one of pre-training, so that everything that can be composed there can be here: SRCL with its own
    weights, a momentum model, conversion. The tokenization is the checkpoint's; images may have another size.

    Args:
        recipe: with ``model.checkpoint``.
        run_folder: where everything goes.
        say: prints a line.

    Returns:
        Figures on the test split; None without one.

    Raises:
        ConfigError: the recipe names no checkpoint.
    """
    checkpoint = recipe.model.checkpoint
    if checkpoint is None:
        raise ConfigError("model.checkpoint names nothing to start from; give the 'model' folder of a pre-training run")
    known = Preprocessing.load(Path(checkpoint))
    text = replace(recipe.text, tokenizer=checkpoint, add_sep=known.add_sep, normalise=known.normalise)
    return pretrain(replace(recipe, text=text), run_folder, say).retrieval
