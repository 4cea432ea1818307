"""Any model as a function from pictures and texts to vectors, and the search among them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from truepair.data.images import BadImageError, to_rgb
from truepair.data.loading import read_batches
from truepair.data.tokens import padded
from truepair.data.transforms import ImageTransform
from truepair.engine.distributed.processes import own_device
from truepair.errors import ConfigError, DataError
from truepair.models.dual.base import require_one_vector
from truepair.models.encoders.fingerprint import (
    caption_input_key,
    combined_key,
    encoder_fingerprint,
    image_input_key,
)
from truepair.models.open import OpenedModel, open_model

Picture = str | Path | Image.Image | Mapping[str, Any]
"""A path, an opened image, or an image cell of a ``PairTable``."""

Vectors = NDArray[np.float32]

_BLOCK = 65_536
"""Vectors compared at once; half-precision ones become float32 in such blocks."""

_NAMED = 5
"""Unreadable pictures that a message names."""


class SearchIndex(Protocol):
    """What the search asks of an index of faiss."""

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Scores and places of the k best vectors of each query, both [Q, k]; place -1 where there are fewer."""
        ...


@dataclass(frozen=True)
class EncodedPart:
    """What became of some pictures.

    Attributes:
        vectors: of those that could be read, in order, L2-normalised float32 [R, E].
        unreadable: place among all pictures, and why it could not be read, of the others.
        done: how many of all pictures are behind.
    """

    vectors: Vectors
    unreadable: list[tuple[int, str]]
    done: int


@dataclass(frozen=True)
class Hits:
    """The vectors most like a query, the most like it first.

    Attributes:
        places: which vectors they are, int64 [K].
        scores: cosine similarity, float32 [K].
    """

    places: NDArray[np.int64]
    scores: Vectors

    def __len__(self) -> int:
        return len(self.places)


class Retriever:
    """Makes vectors of pictures and texts, and finds the ones that are alike.

    Args:
        opened: the model and how captions and images reach it.
        device: where it computes; the accelerator if there is one.

    Attributes:
        model: in evaluation mode.
        preprocessing: how captions and images reach it.

    Raises:
        ConfigError: the model has several vectors an image.
    """

    def __init__(self, opened: OpenedModel, *, device: torch.device | str | None = None) -> None:
        place = own_device() if device is None else torch.device(device)
        self.model = opened.model.to(place).eval()
        require_one_vector(self.model, "this")
        self.preprocessing = opened.preprocessing
        self._transform = opened.preprocessing.images()

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        *,
        device: torch.device | str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Self:
        """Open a model: see :func:`truepair.models.open.open_model` for all that may be named, and for ``say``.

        Raises:
            CheckpointError: there is none, or it is damaged.
            ConfigError: it is no dual encoder.
        """
        return cls(open_model(name_or_folder, say), device=device)

    @property
    def embed_dim(self) -> int:
        """E, the width of a vector."""
        return self.model.embed_dim

    @cached_property
    def fingerprint(self) -> str:
        """Equal fingerprints, equal vectors: a key of weights, config, tokenizer and image processing."""
        return combined_key(
            encoder=encoder_fingerprint(self.model),
            images=image_input_key(self.preprocessing),
            captions=caption_input_key(self.preprocessing),
        )

    def encode_images(self, images: Sequence[Picture], *, batch_size: int = 64, workers: int = 0) -> Vectors:
        """The vectors of pictures.

        Args:
            images: N paths, opened images, or image cells of a ``PairTable``.
            batch_size: pictures that the model reads at once.
            workers: processes that read and resize pictures; 0 for this one.

        Returns:
            L2-normalised float32 [N, E].

        Raises:
            BadImageError: some cannot be read; they are named, so that they can be left out.
        """
        parts = list(self.image_parts(images, batch_size=batch_size, workers=workers))
        unreadable = [why for part in parts for _, why in part.unreadable]
        if unreadable:
            more = f" and {len(unreadable) - _NAMED:,} more" if len(unreadable) > _NAMED else ""
            named = "; ".join(unreadable[:_NAMED])
            raise BadImageError(f"{len(unreadable):,} of {len(images):,} pictures cannot be read: {named}{more}")
        return _joined([part.vectors for part in parts], self.embed_dim)

    def image_parts(
        self, images: Sequence[Picture], *, batch_size: int = 64, workers: int = 0
    ) -> Iterator[EncodedPart]:
        """Yield the vectors of pictures batch by batch, those that cannot be read named beside them.

        Args:
            images: as for :meth:`encode_images`.
            batch_size: pictures that are read at once.
            workers: processes that read and resize pictures.
        """
        batches: Iterator[list[Tensor | str]] = read_batches(
            _LoadedPictures(images, self._transform),
            list,
            workers=min(workers, -(-len(images) // batch_size)),
            batch_size=batch_size,
        )
        done = 0
        for loaded in batches:
            pixels = [picture for picture in loaded if isinstance(picture, Tensor)]
            unreadable = [(done + place, why) for place, why in enumerate(loaded) if isinstance(why, str)]
            done += len(loaded)
            yield EncodedPart(self._image_vectors(pixels), unreadable, done)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Vectors:
        """The vectors of texts; each is padded to the longest of those that are encoded with it.

        Args:
            texts: T texts; what is beyond ``preprocessing.max_length`` tokens is cut, see :meth:`cut_texts`.
            batch_size: texts that the model reads at once.

        Returns:
            L2-normalised float32 [T, E].
        """
        tokenization = self.preprocessing.tokenization
        tokens = tokenization(texts) if texts else []
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))  # least padding
        parts = []
        for start in range(0, len(order), batch_size):
            ids, mask = padded([tokens[place] for place in order[start : start + batch_size]], tokenization.padding)
            parts.append(self._text_vectors(ids, mask))
        vectors = _joined(parts, self.embed_dim)
        arranged = np.empty_like(vectors)
        arranged[order] = vectors
        return arranged

    def cut_texts(self, texts: Sequence[str]) -> list[int]:
        """The places of texts that are longer than the model reads, so that their ends do not count."""
        return self.preprocessing.cut(texts)

    def search(
        self, query: str | Path | Image.Image | Vectors, vectors: NDArray[np.floating] | SearchIndex, k: int = 10
    ) -> Hits:
        """Find the vectors most like a query.

        Args:
            query: a text; a picture, as a ``Path`` or an opened image; or a vector [E].
            vectors: L2-normalised vectors [N, E] of this model, or an index of faiss that holds them.
            k: how many are wanted.

        Raises:
            BadImageError: the picture cannot be read.
            ConfigError: ``k`` is not positive.
            DataError: the vectors have another width than the model's.
        """
        if k < 1:
            raise ConfigError(f"k is {k}; give 1 or more")
        if isinstance(query, str):
            asked = self.encode_texts([query])[0]
        elif isinstance(query, np.ndarray):
            asked = np.asarray(query, np.float32)
        else:
            asked = self.encode_images([query])[0]
        if not isinstance(vectors, np.ndarray):
            scores, places = vectors.search(asked[None], k)
            there = places[0] >= 0
            return Hits(places[0][there], scores[0][there])
        if vectors.ndim != 2 or vectors.shape[1] != len(asked):
            raise DataError(
                f"the vectors have the shape {list(vectors.shape)}, and the query has {len(asked)} numbers; "
                "they are of another model"
            )
        starts = range(0, len(vectors), _BLOCK)
        parts = [vectors[start : start + _BLOCK].astype(np.float32, copy=False) @ asked for start in starts]
        return _best(np.concatenate([*parts, np.zeros(0, np.float32)]), k)

    @torch.inference_mode()
    def _image_vectors(self, pixels: Sequence[Tensor]) -> Vectors:
        if not pixels:
            return _joined([], self.embed_dim)
        features = self.model.encode_images(torch.stack(list(pixels)).to(self.model.device)).features
        return np.asarray(features.float().cpu().numpy(), np.float32)

    @torch.inference_mode()
    def _text_vectors(self, ids: Tensor, mask: Tensor) -> Vectors:
        device = self.model.device
        features = self.model.encode_texts(ids.to(device), mask.to(device)).features
        return np.asarray(features.float().cpu().numpy(), np.float32)


class _LoadedPictures(Dataset[Tensor | str]):
    """Pictures as float32 [3, H, W], or why one cannot be read.

    Args:
        pictures: all of them.
        transform: from an image to the tensor.
    """

    def __init__(self, pictures: Sequence[Picture], transform: ImageTransform) -> None:
        self.pictures = pictures
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, place: int) -> Tensor | str:
        picture = self.pictures[place]
        try:
            if isinstance(picture, Image.Image):
                return self.transform(to_rgb(picture))
            stored = picture if isinstance(picture, Mapping) else {"path": str(picture)}
            return self.transform.read(stored)
        except BadImageError as error:
            return str(error)


def _joined(parts: Sequence[Vectors], width: int) -> Vectors:
    """Parts of vectors as one array [N, E], also of none."""
    return np.concatenate([*parts, np.zeros((0, width), np.float32)])


def _best(scores: Vectors, k: int) -> Hits:
    """The k highest of N scores; of equal ones the first."""
    k = min(k, len(scores))
    if not k:
        return Hits(np.zeros(0, np.int64), scores)
    least = np.partition(scores, -k)[-k]
    candidates = np.flatnonzero(scores >= least)
    places = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
    return Hits(places, scores[places])
