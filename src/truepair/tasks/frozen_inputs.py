"""The training pairs of a recipe, and their states from frozen encoders."""

import torch

from truepair.data.randomness import stable_hash
from truepair.errors import ConfigError
from truepair.mining.run_inputs import RunInputs
from truepair.training.build import Say, build_model, build_preprocessing, build_tables, build_tokenizer
from truepair.training.caches import cached_captions, cached_images
from truepair.training.recipe import PretrainRecipe


def frozen_inputs(recipe: PretrainRecipe, say: Say) -> RunInputs:
    """What a run of the recipe would give its judge, without the run.

    Args:
        recipe: names the pairs and the frozen encoders.
        say: prints a line.

    Raises:
        ConfigError: the recipe caches no frozen features.
        DataError: a source cannot be read.
    """
    if not recipe.model.cache_images or not recipe.model.cache_captions:
        raise ConfigError("this judge compares frozen features; set model.cache_images and model.cache_captions")
    table = build_tables(recipe.data).train
    tokenizer = build_tokenizer(recipe.text, table)
    preprocessing = build_preprocessing(recipe, tokenizer)
    torch.manual_seed(stable_hash(recipe.loop.seed, "initial weights"))
    model = build_model(recipe.model, recipe.text, tokenizer, lambda _: None)
    table, images = cached_images(recipe, model, table, say)
    captions = [caption for captions in table.values("captions") for caption in captions]
    states = cached_captions(recipe.model, model, captions, preprocessing.collator().encode)
    return RunInputs(table=table, preprocessing=preprocessing, model=model, image_cache=images, caption_cache=states)
