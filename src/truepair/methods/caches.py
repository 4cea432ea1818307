"""Frozen states of a run's images and captions, computed once and kept for the next run."""

import os
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch.distributed as dist
from accelerate.utils import gather_object
from torch import nn

from truepair.data.left_out import LeftOut
from truepair.data.pairs import PairDataset
from truepair.data.splits import open_sources
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform
from truepair.engine.logs.progress import counting
from truepair.methods.recipe import PretrainRecipe
from truepair.models.encoders.fingerprint import encoder_fingerprint
from truepair.models.encoders.frozen_captions import (
    CaptionStates,
    EncodeCaptions,
    PooledCaptions,
    cache_caption_states,
)
from truepair.models.encoders.frozen_images import ImageStates, PooledEncoder, cache_image_states
from truepair.models.open import OpenedModel


def cache_folder(stated: str | None) -> Path:
    """The folder that a recipe states, or ``truepair/states`` in the user's cache."""
    if stated is not None:
        return Path(stated)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "truepair" / "states"


class StateCaches:
    """States of a run's pictures and captions from the frozen encoders of its model, where its recipe asks for them.

    The encoders are hashed once, and the sources' pictures opened once, however many splits a run has.

    Args:
        recipe: says whether.
        opened: the model with the frozen towers, and how captions and images reach it.
        left_out: takes what cannot be read.
        means: keep the mean of the states of each picture and caption alone, which is all that some read; where a run
            has kept the states themselves, those are read.
    """

    def __init__(self, recipe: PretrainRecipe, opened: OpenedModel, left_out: LeftOut, *, means: bool = False) -> None:
        self.recipe = recipe
        self.model = opened.model
        self.preprocessing = opened.preprocessing
        self.left_out = left_out
        self.means = means
        self._of_sources: dict[int, ImageStates] = {}  # by number of views

    def images(self, table: PairTable, views: int = 1) -> tuple[PairTable, ImageStates | None]:
        """States of a table's images; rows whose image cannot be read are left out, and a line says so.

        Args:
            table: the images.
            views: how many views of each image: the plain one, then augmented ones.

        Returns:
            The table without unreadable rows, and the states of its rows; or the table as it is and None.

        Raises:
            DataError: more rows are unreadable than the recipe puts up with.
        """
        if not self.recipe.model.cache_images:
            return table, None
        states = self._rows_of_sources(table, views) if self.recipe.model.cache_sources else self._states(table, views)
        unreadable = states.unreadable
        if not unreadable:
            return table, states
        self.left_out.pictures(table, unreadable, most=self.recipe.data.max_bad_fraction)
        return table.select(states.readable), states.of_rows(states.readable)

    def of_judge(self, table: PairTable, encoder: nn.Module, transform: ImageTransform) -> ImageStates:
        """States that a judge's frozen encoder makes of a table's plain images.

        Args:
            table: the images.
            encoder: from images [B, 3, H, W] to states [B, N, W].
            transform: the judge's own.
        """
        recipe = self.recipe
        with counting(f"the judge's image states of {table.name}, {len(table):,} rows") as progress:
            states = cache_image_states(
                encoder,
                PairDataset(table, transform, captions="first"),
                cache_folder(recipe.model.cache_folder),
                workers=recipe.loop.workers,
                timeout=recipe.loop.data_timeout,
                progress=progress,
                check=recipe.model.cache_check,
            )
        return _agreed(states)

    def captions(self, captions: Iterable[str]) -> CaptionStates | None:
        """Token states of captions, or None."""
        if not self.recipe.model.cache_captions:
            return None
        folder = self.recipe.model.cache_folder
        encode = self.preprocessing.collator().encode
        if self.means:
            pooled, whole = PooledCaptions(self.model.text_tower), (self.model.text_tower, self._text_key)
            return text_states(pooled, captions, encode, folder, whole=whole)
        return text_states(self.model.text_tower, captions, encode, folder, encoder_key=self._text_key)

    def _rows_of_sources(self, table: PairTable, views: int) -> ImageStates:
        """States of some rows of the recipe's sources, out of one cache of all."""
        if views not in self._of_sources:
            self._of_sources[views] = self._states(self._sources, views)
        return self._of_sources[views].of_rows(self._sources.rows_of(table.image_ids))

    def _states(self, table: PairTable, views: int) -> ImageStates:
        recipe = self.recipe
        plain = PairDataset(table, self.preprocessing.images(), captions="first")
        augmented = PairDataset(table, self.preprocessing.images(train=True), captions="first")
        with counting(f"image states of {table.name}, {len(table):,} rows") as progress:
            states = cache_image_states(
                self._image_encoder,
                plain,
                cache_folder(recipe.model.cache_folder),
                augmented=augmented,
                views=views,
                preprocessing=self.preprocessing.image_settings(train=True),
                workers=recipe.loop.workers,
                timeout=recipe.loop.data_timeout,
                progress=progress,
                encoder_key=self._image_key,
                whole=self._whole_images,
                check=recipe.model.cache_check,
            )
        return _agreed(states)

    @cached_property
    def _sources(self) -> PairTable:
        return open_sources(self.recipe.data)

    @cached_property
    def _image_encoder(self) -> nn.Module:
        tower = self.model.image_tower
        return PooledEncoder(tower) if self.means or self.recipe.model.pool_images else tower

    @cached_property
    def _whole_images(self) -> tuple[nn.Module, str] | None:
        """The encoder whose states are read where they are kept already, and its key."""
        if not self.means or self.recipe.model.pool_images:
            return None
        return self.model.image_tower, encoder_fingerprint(self.model.image_tower)

    @cached_property
    def _image_key(self) -> str:
        return encoder_fingerprint(self._image_encoder)

    @cached_property
    def _text_key(self) -> str:
        return encoder_fingerprint(self.model.text_tower)


def _agreed(states: ImageStates) -> ImageStates:
    """The states with what one process of a run cannot read unreadable for all: files come back while they look."""
    if not dist.is_initialized():
        return states
    views = []
    for view in states.views:
        told = gather_object(sorted(view.unreadable.items()))
        views.append(replace(view, unreadable=dict(sorted(told))))
    return replace(states, views=tuple(views))


def text_states(
    encoder: nn.Module,
    texts: Iterable[str],
    encode: EncodeCaptions,
    folder: str | None,
    *,
    encoder_key: str | None = None,
    whole: tuple[nn.Module, str] | None = None,
) -> CaptionStates:
    """Token states of texts from a frozen text encoder.

    Args:
        encoder: the encoder.
        texts: repeated ones are encoded once.
        encode: the tokenization of the run.
        folder: where caches are kept; a folder of the user's cache when None.
        encoder_key: the encoder's fingerprint, if it is known.
        whole: see `cache_caption_states`.
    """
    with counting("text states") as progress:
        return cache_caption_states(
            encoder, texts, encode, cache_folder(folder), progress=progress, encoder_key=encoder_key, whole=whole
        )
