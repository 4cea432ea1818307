"""A torch dataset of image-text pairs whose samples depend on (seed, epoch, sample) and on nothing else."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, NotRequired, TypedDict

import datasets
from torch import Tensor
from torch.utils.data import Dataset

from truepair.data.images import DEFAULT_MAX_PIXELS, BadImageError, load_image
from truepair.data.randomness import isolated_rng, stable_hash
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform
from truepair.errors import ConfigError, DataError
from truepair.relations.text import caption_key

_TEXTS = ("image_id", "captions", "caption_ids")
_HELD_ROWS = 50_000


class Visit(NamedTuple):
    """One visit of a sample. Samplers yield visits, so that the epoch reaches worker processes."""

    epoch: int
    index: int  # type: ignore[assignment]  # a row number, not the method of tuples


class PairSample(TypedDict):
    """One sample. ``index`` is the row asked for; the other fields are those of ``source_index``, the row delivered."""

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
        """Read the samples of a batch; a DataLoader calls this, and the table is asked once instead of once a row."""
        places = [self._place(visit) for visit in visits]
        rows = self._read([index for _, index in places])
        return [self._readable(epoch, index, row) for (epoch, index), row in zip(places, rows, strict=True)]

    def _place(self, visit: Visit | int) -> tuple[int, int]:
        epoch, index = visit if isinstance(visit, Visit) else (0, int(visit))
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"row {index} of {count}")
        return epoch, index % count

    def _readable(self, epoch: int, index: int, row: dict[str, Any]) -> PairSample:
        """The sample of a row, or that of the next row that can be read."""
        reason, count = "", len(self)
        for step in range(min(self.substitutes + 1, count)):
            source_index = (index + step) % count
            try:
                return self._sample(epoch, index, source_index, row if step == 0 else self._rows[source_index], reason)
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

    def _sample(self, epoch: int, index: int, source_index: int, row: dict[str, Any], reason: str) -> PairSample:
        # The first caption's id is part of the key: rows that share an image are augmented apart.
        keys = (self.seed, epoch, row["image_id"], row["caption_ids"][0])
        drawn = stable_hash(*keys, "caption") % len(row["captions"]) if self.captions == "draw" else 0
        sample = PairSample(
            index=index,
            source_index=source_index,
            image_id=row["image_id"],
            caption_id=row["caption_ids"][drawn],
            caption=row["captions"][drawn],
            caption_key=caption_key(row["captions"][drawn]),
            substituted=index != source_index,
            reason=reason,
        )
        if self.transform is not None:
            sample["pixel_values"] = self._pixels(row["image"], keys)
        return sample

    def _pixels(self, stored: dict[str, Any], keys: tuple[int, ...]) -> Tensor:
        assert self.transform is not None
        image = load_image(stored, min_side=self.transform.min_side, max_pixels=self.max_pixels)
        with isolated_rng(*keys, "augment"):
            return self.transform(image)  # [3, H, W]
