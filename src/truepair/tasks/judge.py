"""Fitting a judge of undeclared pairs on clean ones, whose groups are declared."""

from pathlib import Path

import torch

from truepair.data.randomness import stable_hash
from truepair.errors import ConfigError
from truepair.mining.evidence_fit import EvidenceConfig, fit_evidence
from truepair.mining.evidence_model import EvidenceModel
from truepair.mining.evidence_tables import EvidenceTables
from truepair.mining.run_inputs import RunInputs
from truepair.training.build import Say, build_model, build_preprocessing, build_tables, build_tokenizer
from truepair.training.caches import cached_captions, cached_images
from truepair.training.recipe import PretrainRecipe


def fit_judge(recipe: PretrainRecipe, folder: Path, say: Say, config: EvidenceConfig | None = None) -> EvidenceModel:
    """Fit the evidence judge on the training pairs of a recipe.

    Args:
        recipe: names clean data with a ``group`` column, and the frozen encoders that the judge compares.
        folder: where the judge goes; ``ecm.discriminator`` asks for it with kind "evidence" and this checkpoint.
        say: prints a line.
        config: how it is fitted.

    Raises:
        ConfigError: the recipe caches no frozen features.
        DataError: the pairs declare no groups, or too few.
    """
    if not recipe.model.cache_images or not recipe.model.cache_captions:
        raise ConfigError("a judge is fitted on frozen features; set model.cache_images and model.cache_captions")
    table = build_tables(recipe.data).train
    tokenizer = build_tokenizer(recipe.text, table)
    preprocessing = build_preprocessing(recipe, tokenizer)
    torch.manual_seed(stable_hash(recipe.loop.seed, "initial weights"))
    model = build_model(recipe.model, recipe.text, tokenizer, lambda _: None)
    table, images = cached_images(recipe, model, table, say)
    captions = [caption for captions in table.rows["captions"] for caption in captions]
    states = cached_captions(recipe.model, model, captions, preprocessing.collator().encode)
    inputs = RunInputs(table=table, preprocessing=preprocessing, model=model, image_cache=images, caption_cache=states)
    judge = fit_evidence(EvidenceTables.of_run(inputs), table, config)
    judge.save(folder)
    say(f"a judge was fitted on {len(table):,} clean pairs from {table.name}: {folder}")
    return judge
