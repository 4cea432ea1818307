"""The training pairs of a recipe, and their states from frozen encoders."""

from accelerate import PartialState

from truepair.errors import ConfigError
from truepair.mining.run_inputs import RunInputs
from truepair.training.build import Say, build_student, build_tables
from truepair.training.caches import StateCaches
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
    student = build_student(recipe, table, lambda _: None)
    model, preprocessing = student.model, student.preprocessing
    model.to(PartialState(cpu=recipe.loop.cpu).device)
    caches = StateCaches(recipe, model, preprocessing.collator().encode, say)
    table, images = caches.images(table)
    captions = (caption for captions in table.values("captions") for caption in captions)
    texts = caches.captions(captions)
    return RunInputs(
        table=table,
        preprocessing=preprocessing,
        model=model,
        image_cache=images,
        caption_cache=texts,
        pooled=recipe.model.pool_images,
    )
