"""Retrieval fine-tuning: pre-training's step with ITC and ITM on clean pairs, from a pre-trained model."""

from dataclasses import replace
from pathlib import Path

from truepair.data.preprocessing import Preprocessing
from truepair.errors import ConfigError
from truepair.tasks.pretraining import pretrain
from truepair.tasks.retrieval import RetrievalResult
from truepair.training.build import Say
from truepair.training.recipe import PretrainRecipe


def finetune_retrieval(recipe: PretrainRecipe, run_folder: Path, say: Say) -> RetrievalResult | None:
    """Fine-tune on retrieval, and measure the model that is left on the test split.

    The recipe is one of pre-training, so that everything that can be composed there can be here: SRCL with its own
    weights, a momentum model, conversion. The tokenization is the checkpoint's; images may have another size. Two
    pre-trained encoders will do as well: what reads both then starts fresh.

    Args:
        recipe: with ``model.checkpoint``, or with ``model.image_checkpoint`` and ``model.text_checkpoint``.
        run_folder: where everything goes.
        say: prints a line.

    Returns:
        Figures on the test split; None without one.

    Raises:
        ConfigError: the recipe names nothing pre-trained.
    """
    model = recipe.model
    if model.checkpoint is not None:
        known = Preprocessing.load(Path(model.checkpoint))
        text = replace(recipe.text, tokenizer=model.checkpoint, add_sep=known.add_sep, normalise=known.normalise)
        recipe = replace(recipe, text=text)
    elif model.image_checkpoint is None or model.text_checkpoint is None:
        raise ConfigError("model.checkpoint names nothing to start from; give the 'model' folder of a pre-training run")
    return pretrain(recipe, run_folder, say).retrieval
