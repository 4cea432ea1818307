"""A dataset of image-text pairs, its batches, and what stands in for an unreadable image."""

import io
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, NotRequired, Protocol, Self, TypedDict

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from truepair.data.images import DEFAULT_MAX_PIXELS, BadImageError
from truepair.data.loading import room_for
from truepair.data.table import PairTable
from truepair.data.tokens import Tokenization, padded
from truepair.data.transforms import ImageTransform
from truepair.errors import ConfigError, DataError
from truepair.randomness import isolated_rng, stable_hash
from truepair.sampling.batches import Visit

_TEXTS = ("image_id", "captions", "caption_ids")

_HELD_ROWS = 50_000
"""Largest table whose texts are held in memory."""

_REMEMBERED = 65_536
"""Captions whose tokens are remembered."""

_PROBE_SIDES = (307, 419)
"""Height and width in pixels of the picture that tells transforms apart."""


class PairSample(TypedDict):
    """One sample. ``index`` is the row asked for; the other fields are those of ``source_index``, the row delivered.

    ``image_id`` is that of the picture: rows that show one picture under several ids have the same. ``caption`` is
    empty for a picture without captions, see ``open_pairs``.
    """

    index: int
    source_index: int
    image_id: int
    caption_id: int
    caption: str
    caption_key: int
    substituted: bool
    reason: str
    pixel_values: NotRequired[Tensor]  # float32 [3, H, W]


class PairDataset(Dataset[PairSample]):
    """The samples of a ``PairTable``: one image and one of its captions.

    ``dataset[Visit(epoch, index)]`` and ``dataset[index]`` (epoch 0) are pure functions of the seed, the epoch and the
    sample's ids: the worker count, the order of visits and the caller's random state do not matter, nor where the row
    stands in the table.

    An image that cannot be read is replaced by the next readable row in index order, as that row would be at its own
    visit; the order of all other visits stays. The sample says so in ``substituted``, ``source_index`` and ``reason``.

    Args:
        table: the pairs.
        transform: image to tensor; None leaves images undecoded, for text alone.
        captions: "draw" draws one caption per visit, "first" takes the first. For all, use ``table.as_pairs()``.
        seed: seed of the run.
        substitutes: how many following rows may be tried in place of an unreadable one; 0 raises its error.
        max_pixels: largest width x height that is decoded.

    Raises:
        ConfigError: unknown value of ``captions``.
        DataError: the table is empty.
    """

    def __init__(
        self,
        table: PairTable,
        transform: ImageTransform | None = None,
        *,
        captions: str = "draw",
        seed: int = 0,
        substitutes: int = 16,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        if captions not in ("draw", "first"):
            raise ConfigError(f"captions is '{captions}'; give draw or first, or use table.as_pairs() for all captions")
        if not len(table):
            raise DataError(f"{table.name} holds no pairs; check its split and what was skipped (table.skipped)")
        self.table = table
        self.transform = transform
        self.captions = captions
        self.seed = seed
        self.substitutes = substitutes
        self.max_pixels = max_pixels
        self._pictures = table.picture_keys  # [N]; here, so that workers need not find them again

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, visit: Visit | int) -> PairSample:
        """Read one sample.

        Raises:
            IndexError: no such row.
            BadImageError: the image cannot be read and ``substitutes`` is 0.
            DataError: none of the rows tried can be read.
        """
        return self.__getitems__([visit])[0]

    def __getitems__(self, visits: Sequence[Visit | int]) -> list[PairSample]:
        """Read the samples of a batch; a DataLoader calls this, and the table is asked once instead of once a row.

        Raises:
            IndexError: no such row.
            DataError: as for one sample.
        """
        places = [self._place(visit) for visit in visits]
        rows = self._read([index for _, index in places])
        return [
            self._readable(epoch, index, row, into)
            for (epoch, index), row, into in zip(places, rows, self._room(len(places)), strict=True)
        ]

    def without_substitutes(self) -> "PairDataset":
        """The same dataset, which raises a ``BadImageError`` for a picture that cannot be read."""
        strict = copy(self)
        strict.substitutes = 0
        return strict

    def probe(self, epoch: int = 0) -> Tensor:
        """What the transform makes in some epoch of a picture that is always the same, float32 [3, H, W]."""
        assert self.transform is not None, "there is no transform to probe"
        return self._pixels({"bytes": _probe_picture()}, (self.seed, epoch, 0, 0))

    def _place(self, visit: Visit | int) -> tuple[int, int]:
        epoch, index = visit if isinstance(visit, Visit) else (0, int(visit))
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"row {index} of {count}")
        return epoch, index % count

    def _room(self, count: int) -> Iterable[Tensor | None]:
        """Where the pixels of each sample of a batch are to be written: in one tensor, so that none is stacked."""
        if self.transform is None or self.transform.sides is None:
            return [None] * count
        return room_for(count, 3, *self.transform.sides)  # [B, 3, H, W]

    def _readable(self, epoch: int, index: int, row: dict[str, Any], into: Tensor | None) -> PairSample:
        """The sample of a row, or that of the next row that can be read."""
        reason, count = "", len(self)
        for step in range(min(self.substitutes + 1, count)):
            source_index = (index + step) % count
            try:
                row = row if step == 0 else self._rows[source_index]
                return self._sample(epoch, index, source_index, row, reason, into)
            except BadImageError as error:
                if not self.substitutes:
                    raise
                reason = reason or str(error)
        raise DataError(f"row {index} of {self.table.name} and the {step} after it cannot be read: {reason}")

    def _read(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        if self._held is not None:
            return [{name: column[index] for name, column in self._held.items()} for index in indices]
        columns = self._rows[indices]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    @cached_property
    def _held(self) -> dict[str, list[Any]] | None:
        """The texts of a small table, in memory: on cached states, reading them from Arrow took a fifth of a step."""
        if self.transform is not None or len(self.table) > _HELD_ROWS:
            return None
        return {name: self.table.values(name) for name in _TEXTS}

    @cached_property
    def _rows(self) -> datasets.Dataset:
        """The columns that samples are made of; reading a row costs by the column, and by the bytes of its image."""
        image = [] if self.transform is None else ["image"]
        return self.table.rows.select_columns([*_TEXTS, *image])

    def _sample(
        self, epoch: int, index: int, source_index: int, row: dict[str, Any], reason: str, into: Tensor | None
    ) -> PairSample:
        captions, ids = row["captions"], row["caption_ids"]
        if not captions:  # a picture that is to be captioned
            captions, ids = [""], [row["image_id"]]
        # The first caption's id is part of the key: rows that share an image are augmented apart.
        keys = (self.seed, epoch, row["image_id"], ids[0])
        drawn = stable_hash(*keys, "caption") % len(captions) if self.captions == "draw" else 0
        sample = PairSample(
            index=index,
            source_index=source_index,
            image_id=int(self._pictures[source_index]),
            caption_id=ids[drawn],
            caption=captions[drawn],
            caption_key=self.table.caption_key(captions[drawn]),
            substituted=index != source_index,
            reason=reason,
        )
        if self.transform is not None:
            sample["pixel_values"] = self._pixels(row["image"], keys, into)
        return sample

    def _pixels(self, stored: dict[str, Any], keys: tuple[int, ...], into: Tensor | None = None) -> Tensor:
        assert self.transform is not None
        with isolated_rng(*keys, "augment"):
            return self.transform.read(stored, self.max_pixels, into)  # [3, H, W]


def _probe_picture() -> bytes:
    """A JPEG with smooth and with sharp parts, of odd sides."""
    rows, columns = np.mgrid[0 : _PROBE_SIDES[0], 0 : _PROBE_SIDES[1]]
    channels = [rows * 2 % 256, (rows * columns) // 64 % 256, (columns // 8 + rows // 8) % 2 * 255]
    stream = io.BytesIO()
    Image.fromarray(np.stack(channels, axis=2).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


class TensorBatch:
    """A dataclass of tensors and of other things, which moves its tensors together."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batch with its tensors on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory; a DataLoader with ``pin_memory=True`` calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        changed: dict[str, Any] = {n: change(value) for n, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **changed)  # type: ignore[type-var]


@dataclass(frozen=True)
class PairBatch(TensorBatch):
    """A batch of B pairs. Ids stay on the host, wherever the batch is: from them it is decided what pairs match.

    Attributes:
        pixel_values: images, float32 [B, 3, H, W]; None if the dataset has no transform.
        input_ids: caption tokens, int64 [B, L], padded on the right.
        attention_mask: 1 at tokens and 0 at padding, int64 [B, L].
        index: rows that were asked for, int64 [B].
        source_index: rows that were delivered, int64 [B]; differs from ``index`` where a sample could not be read.
        image_id: of the pictures, int64 [B]; copies of a picture share the smallest of their ids.
        caption_id: int64 [B].
        caption_key: key of the normalised caption text, with its case where the table says so, int64 [B].
        captions: the captions as their source states them.
        reasons: why a row was substituted; empty where it was not.
    """

    pixel_values: Tensor | None  # [B, 3, H, W]
    input_ids: Tensor  # [B, L]
    attention_mask: Tensor  # [B, L]
    index: Tensor  # [B]
    source_index: Tensor  # [B]
    image_id: Tensor  # [B]
    caption_id: Tensor  # [B]
    caption_key: Tensor  # [B]
    captions: list[str]
    reasons: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def device(self) -> torch.device:
        """Where the pixels and tokens are."""
        return self.input_ids.device

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batch with its pixels and tokens on another device."""
        pixels, ids, mask = self.pixel_values, self.input_ids, self.attention_mask
        return replace(
            self,
            pixel_values=None if pixels is None else pixels.to(device, non_blocking=non_blocking),
            input_ids=ids.to(device, non_blocking=non_blocking),
            attention_mask=mask.to(device, non_blocking=non_blocking),
        )


class PairCollator:
    """Makes a ``PairBatch`` of samples: stacks images, tokenizes captions, pads to the longest of the batch.

    The tokens of the captions seen last are remembered: on cached states, tokenizing was an eighth of a step.

    Args:
        tokenization: from captions to token ids; ``captions`` of a batch stay as they are.
    """

    def __init__(self, tokenization: Tokenization) -> None:
        self.tokenization = tokenization
        self._tokens: dict[str, list[int]] = {}

    def __call__(self, samples: Sequence[PairSample]) -> PairBatch:
        """Collate the samples of one batch; all have pixel values, or none has."""
        captions = [sample["caption"] for sample in samples]
        input_ids, attention_mask = self.encode(captions)
        has_pixels = "pixel_values" in samples[0]
        return PairBatch(
            pixel_values=stacked([sample["pixel_values"] for sample in samples]) if has_pixels else None,
            input_ids=input_ids,
            attention_mask=attention_mask,
            index=_column(samples, "index"),
            source_index=_column(samples, "source_index"),
            image_id=_column(samples, "image_id"),
            caption_id=_column(samples, "caption_id"),
            caption_key=_column(samples, "caption_key"),
            captions=captions,
            reasons=[sample["reason"] for sample in samples],
        )

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenize captions as in a batch; ``input_ids`` and ``attention_mask``, both int64 [T, L]."""
        if len(self._tokens) > _REMEMBERED:
            self._tokens.clear()
        unseen = [caption for caption in dict.fromkeys(captions) if caption not in self._tokens]
        if unseen:
            self._tokens.update(zip(unseen, self.tokenization(unseen), strict=True))
        return padded([self._tokens[caption] for caption in captions], self.tokenization.padding)


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape in one, [B, ...]: that of which they are the rows in order, if there is one, and no copy."""
    whole = tensors[0]._base
    if whole is None or whole.shape != (len(tensors), *tensors[0].shape):
        return torch.stack(list(tensors))
    in_order = all(tensor.data_ptr() == row.data_ptr() for tensor, row in zip(tensors, whole, strict=True))
    return whole if in_order else torch.stack(list(tensors))


def _column(samples: Sequence[Any], name: str) -> Tensor:
    return torch.tensor([sample[name] for sample in samples], dtype=torch.int64)  # [B]


@dataclass(frozen=True)
class Substitution:
    """One visit of a sample that could not be read.

    Attributes:
        index: row that was asked for.
        source_index: row that was delivered in its place.
        reason: why the first could not be read.
    """

    index: int
    source_index: int
    reason: str


class _Delivered(Protocol):
    """What the log reads of a ``PairBatch``."""

    @property
    def index(self) -> Tensor:
        """Rows that were asked for [B]."""
        ...

    @property
    def source_index(self) -> Tensor:
        """Rows that were delivered [B]."""
        ...

    @property
    def reasons(self) -> Sequence[str]:
        """Why a row was substituted, or empty [B]."""
        ...


class SubstitutionLog:
    """Collects, in the main process, the substitutions that batches report, and stops a run that has too many.

    Workers hold copies of the dataset, so they cannot count for it: each batch carries its own substitutions.

    Args:
        max_fraction: largest share of visits that may be substituted.
        min_visits: visits before that share is judged.

    Attributes:
        visits: samples seen so far.
        entries: each substituted row once, with its last substitute and reason, by row.
        count: substituted visits so far.
    """

    def __init__(self, max_fraction: float = 0.05, min_visits: int = 200) -> None:
        self.max_fraction = max_fraction
        self.min_visits = min_visits
        self.visits = 0
        self.count = 0
        self._by_row: dict[int, Substitution] = {}

    @property
    def entries(self) -> list[Substitution]:
        """Each substituted row once, in row order."""
        return [self._by_row[row] for row in sorted(self._by_row)]

    def update(self, batch: _Delivered) -> None:
        """Take in one batch.

        Raises:
            DataError: more than ``max_fraction`` of the visits so far were substituted; unless it is 0, a single row
                is put up with.
        """
        self.visits += len(batch.reasons)
        for position, reason in enumerate(batch.reasons):
            if reason:
                row, stand_in = int(batch.index[position]), int(batch.source_index[position])
                self._by_row[row] = Substitution(row, stand_in, reason)
                self.count += 1
        tolerated = 1 if self.max_fraction else 0  # rows, however few there are
        too_many = self.count > self.max_fraction * self.visits and len(self._by_row) > tolerated
        if self.visits >= self.min_visits and too_many:
            last = next(reversed(self._by_row.values()))
            raise DataError(
                f"{self.count} of {self.visits} samples could not be read, over the limit of {self.max_fraction:.1%}; "
                f"repair the data or raise data.max_bad_fraction; the last: {last.reason}"
            )

    def state(self) -> dict[str, Any]:
        """State for a checkpoint, of simple types."""
        return {"visits": self.visits, "count": self.count, "entries": [asdict(entry) for entry in self.entries]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.visits, self.count = state["visits"], state["count"]
        self._by_row = {entry["index"]: Substitution(**entry) for entry in state["entries"]}
