"""Frozen states of a run's images and captions, computed once and kept for the next run."""

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from torch import nn

from truepair.data.dataset import PairDataset
from truepair.data.table import PairTable
from truepair.errors import DataError
from truepair.models.albef import AlbefModel
from truepair.models.frozen_captions import CaptionStates, EncodeCaptions, cache_caption_states
from truepair.models.frozen_images import ImageStates, cache_image_states
from truepair.models.pooled import PooledEncoder
from truepair.training.build import Say, build_image_transform, open_sources
from truepair.training.progress import counting
from truepair.training.recipe import ModelConfig, PretrainRecipe


def cache_folder(stated: str | None) -> Path:
    """The folder that a recipe states, or ``truepair/states`` in the user's cache."""
    if stated is not None:
        return Path(stated)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "truepair" / "states"


def cached_images(
    recipe: PretrainRecipe, model: AlbefModel, table: PairTable, say: Say, *, views: int = 1
) -> tuple[PairTable, ImageStates | None]:
    """States of a table's images, if the recipe asks for a cache; rows whose image cannot be read are left out, aloud.

    Args:
        recipe: says whether, and how images are transformed.
        model: holds the frozen image encoder.
        table: the images.
        say: prints a line.
        views: how many views of each image: the plain one, then augmented ones.

    Returns:
        The table without unreadable rows, and the states of its rows; or the table as it is and None.

    Raises:
        DataError: more rows are unreadable than the recipe puts up with.
    """
    if not recipe.model.cache_images:
        return table, None
    transform = recipe.data.transform
    whole = open_sources(recipe.data) if recipe.model.cache_sources else table
    plain = PairDataset(whole, build_image_transform(transform, model, train=False), captions="first")
    augmented = PairDataset(whole, build_image_transform(transform, model, train=True), captions="first")
    encoder = PooledEncoder(model.image_encoder) if recipe.model.pool_images else model.image_encoder
    with counting(f"image states of {whole.name}, {len(whole):,} rows") as progress:
        states = cache_image_states(
            encoder,
            plain,
            cache_folder(recipe.model.cache_folder),
            augmented=augmented,
            views=views,
            preprocessing=asdict(transform),
            workers=recipe.loop.workers if model.device.type != "cpu" else os.cpu_count() or 1,
            progress=progress,
        )
    if whole is not table:
        states = states.of_rows(whole.rows_of(table.image_ids))
    unreadable = states.unreadable
    if not unreadable:
        return table, states
    row, reason = next(iter(unreadable.items()))
    line = (
        f"{len(unreadable)} of {len(table)} rows of {table.name} have unreadable images; the first: row {row}: {reason}"
    )
    if len(unreadable) > recipe.data.max_bad_fraction * len(table):
        raise DataError(f"{line}; repair them or raise data.max_bad_fraction")
    say(f"left out: {line}")
    return table.select(states.readable), states.of_rows(states.readable)


def cached_captions(
    config: ModelConfig, model: AlbefModel, captions: Iterable[str], encode: EncodeCaptions
) -> CaptionStates | None:
    """Token states of captions from the frozen text encoder, if the recipe asks for a cache; else none are read."""
    return text_states(model.text_encoder, captions, encode, config.cache_folder) if config.cache_captions else None


def text_states(encoder: nn.Module, texts: Iterable[str], encode: EncodeCaptions, folder: str | None) -> CaptionStates:
    """Token states of texts from a frozen text encoder.

    Args:
        encoder: the encoder.
        texts: repeated ones are encoded once.
        encode: the tokenization of the run.
        folder: where caches are kept; a folder of the user's cache when None.
    """
    with counting("text states") as progress:
        return cache_caption_states(encoder, texts, encode, cache_folder(folder), progress=progress)
