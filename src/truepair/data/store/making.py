"""Rows of a table, made of what a source states."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

from truepair.data.formats.record import STATED_FIELDS, Entries, Record, Skips, as_text, image_of, is_missing
from truepair.data.source import SourceConfig
from truepair.data.split_names import split_of_word
from truepair.data.store.paths import ImagePaths, NoPathError
from truepair.randomness import stable_hash, stable_hashes

STATED, NAMED, NONE = "stated", "named", "none"
"""Where the splits of rows are from: the rows state them, files or folders are named for them, or nothing says one."""

_NO_CAPTION, _EMPTY = "it has no caption", "its caption is empty"

_FEW = 50  # rows that are made one by one if one of them has to be


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows of which nothing is left out: N rows with C captions.

    Lists of their own for the captions of each row would be most of the time, as Python's collector follows them.

    Attributes:
        images: fields of the image cells [N], by name; a field that is not among them has none.
        captions: of all rows, in order [C].
        caption_ids: of these [C].
        ends: how many captions there are before each row, and at the end [N + 1].
        others: values of the other columns [N], by name; a column that is not among them has none.
    """

    images: dict[str, list[Any]]
    captions: list[str]
    caption_ids: list[int]
    ends: Sequence[int]
    others: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.ends) - 1


class RowMaker:
    """Checks what a source states and makes rows of it; what cannot be used goes to ``skips``.

    Args:
        config: the source.
        paths: resolves image paths.
        skips: where left-out rows and captions are listed.
        named_split: split that the name of a file speaks of.
        origins: takes where the splits of the rows are from.
        captionless: a picture without a caption is a row, too.
    """

    def __init__(
        self,
        config: SourceConfig,
        paths: ImagePaths,
        skips: Skips,
        named_split: Callable[[Path | None], str | None],
        origins: set[str],
        *,
        captionless: bool = False,
    ) -> None:
        self.config = config
        self.paths = paths
        self.skips = skips
        self.named_split = named_split
        self.origins = origins
        self.captionless = captionless

    def made(self, part: Record | Entries) -> Iterator[dict[str, Any] | Columns]:
        """The rows of a part of the source, one at a time, or as columns where nothing of them has to be left out.

        Raises:
            DataError: as for ``row``.
        """
        if isinstance(part, Record):
            row = self.row(part)
            if row is not None:
                yield row
        elif (columns := self.columns(part)) is not None:
            yield columns
        elif len(part) > _FEW:
            for start in range(0, len(part), _FEW):
                yield from self.made(part.part(start, start + _FEW))
        else:
            for record in part.records():
                yield from self.made(record)

    def columns(self, entries: Entries) -> Columns | None:
        """The rows of some entries as ``row`` makes them, or None if there is more to one of them.

        That is an image that is no path or leads out of the root beside others, a caption that is left out or no text,
        other ids than captions, names that are no texts, or a text that cannot be stored.
        """
        fields = set[str]().union(*entries.values)
        stated = {
            name: column
            for name in STATED_FIELDS
            if name in fields and not all(map(is_missing, column := [entry.get(name) for entry in entries.values]))
        }
        lists = {name: _lists(stated[name]) for name in ("caption_ids", "names") if name in stated}
        if any(column is None for column in lists.values()) or (images := self._images(entries)) is None:
            return None
        if (said := self._all_captions(entries)) is None:
            return None
        known = [name for name in ("split", "group", "family") if name in stated]
        texts: dict[str, list[str | None]] = {name: _texts(stated[name], is_missing) for name in known}
        words = texts.get("split", [None] * len(entries))
        texts["split"] = [entries.split if word is None else split_of_word(word) for word in words]
        further = {name: _texts([entry.get(name) for entry in entries.values], _is_none) for name in entries.extra}
        if not all(map(self._are_short, texts.values())) or not all(map(_are_unicode, (texts | further).values())):
            return None
        keys, cells = images
        image_ids = self._image_ids(keys, stated.get("image_id"))
        caption_ids = self._all_caption_ids(image_ids, *said, stated.get("caption_id"), lists.get("caption_ids"))
        names = lists.get("names")
        if caption_ids is None or not (names is None or _are_texts(names)):
            return None
        splits = {word: self._split(word, entries.file) for word in set(texts["split"])}
        others: dict[str, list[Any]] = {**texts, **further, "image_id": image_ids}
        others["split"] = [splits[word] for word in texts["split"]]
        if names is not None:
            others["names"] = names
        return Columns(cells, said[0], caption_ids, said[1], others)

    def _images(self, entries: Entries) -> tuple[list[str], dict[str, list[Any]]] | None:
        """Keys of the images of some entries, and the fields of their cells.

        None where one cannot be used, or some are files and others are not.
        """
        stated: list[Any] = [entry.get(entries.image_name) for entry in entries.values]
        if set(map(type, stated)) != {str}:
            found = [image_of(value) for value in stated]
            cells = [cell for _, cell in found if cell is not None]
            if len(cells) == len(stated):
                parts = {name: [cell.get(name) for cell in cells] for name in ("bytes", "path")}
                return (entries.image_keys(), parts) if _are_unicode(parts["path"]) else None
            if cells:
                return None
            stated = [path for path, _ in found]
        if not all(stated) or not _are_unicode(stated):
            return None
        paths = self.paths.resolve_all(stated)
        return None if paths is None else (stated, {"path": paths})

    def _all_captions(self, entries: Entries) -> tuple[list[str], Sequence[int]] | None:
        """Captions of some entries, and where those of each end, see ``Columns``; None where one cannot be used."""
        stated: list[Any] = [entry.get(entries.caption_name) for entry in entries.values]
        kinds = set(map(type, stated))
        if entries.lines or kinds not in ({str}, {list}) or not all(stated):
            return None
        texts = stated if kinds == {str} else list(chain.from_iterable(stated))
        if set(map(type, texts)) != {str}:
            return None
        captions = list(map(str.strip, texts))
        if not all(captions) or not self._are_short(texts) or not _are_unicode(texts):
            return None
        return captions, range(len(stated) + 1) if kinds == {str} else list(accumulate(map(len, stated), initial=0))

    def _are_short(self, texts: Iterable[str | None]) -> bool:
        return max(map(len, filter(None, texts)), default=0) <= self.config.max_caption_length

    def _image_ids(self, keys: list[str], stated: list[Any] | None) -> list[int]:
        """Ids of images, as stated or from their paths."""
        if stated is None or self.config.derive_ids:
            return stable_hashes("image", keys)
        if not any(map(is_missing, stated)):
            return self._ids(stated)
        return [
            stable_hash("image", key) if is_missing(own) else self._id(own)
            for key, own in zip(keys, stated, strict=True)
        ]

    def _all_caption_ids(
        self,
        image_ids: list[int],
        captions: list[str],
        ends: Sequence[int],
        single: list[Any] | None,
        lists: list[list[Any] | None] | None,
    ) -> list[int] | None:
        """Ids of captions, as stated or from their image and text; None where a row states other ids than captions.

        Args:
            image_ids: of the rows [N].
            captions: of all rows [C].
            ends: see ``Columns`` [N + 1].
            single: the id of its caption that a row states [N].
            lists: those of its captions, where it does not [N].
        """
        if self.config.derive_ids or (single is None and lists is None):
            return _derived_ids(image_ids, captions, ends)
        stated = [None] * len(image_ids) if lists is None else lists
        if single is not None:
            stated = [own if is_missing(one) else [one] for one, own in zip(single, stated, strict=True)]
        parts = list(pairwise(ends))
        if any(own is not None and len(own) != end - start for own, (start, end) in zip(stated, parts, strict=True)):
            return None
        if None not in stated:
            return self._ids(list(chain.from_iterable(filter(None, stated))))
        derived = _derived_ids(image_ids, captions, ends)
        return [
            number
            for own, (start, end) in zip(stated, parts, strict=True)
            for number in (derived[start:end] if own is None else self._ids(own))
        ]

    def _ids(self, stated: list[Any]) -> list[int]:
        if set(map(type, stated)) == {int} and min(stated) >= 0 and max(stated) < 2**63:
            return stated
        return list(map(self._id, stated))

    def row(self, record: Record) -> dict[str, Any] | None:
        """Make the row of a record, or None if it is left out.

        Raises:
            DataError: the image path leaves the root; or the row is left out, and ``on_bad`` says "error".
        """
        if record.problem:
            self.skips.row(record.where, record.problem)
            return None
        image = self._image(record)
        if image is None:
            return None
        stated = None if self.config.derive_ids else record.image_id
        image_id = self._id(stated) if stated is not None else stable_hash("image", record.key)
        captions = self._captions(record)
        if not captions and not self.captionless:
            return None
        for name in ("split", "group", "family"):
            text = getattr(record, name)
            if text is not None and (not is_unicode(text) or len(text) > self.config.max_caption_length):
                long = f"has {len(text)} characters, more than max_caption_length"
                self.skips.row(record.where, f"its {name} {long if is_unicode(text) else 'is not UTF-8'}")
                return None
        ids = None if self.config.derive_ids else record.caption_ids
        if ids is not None and len(ids) != len(record.captions):
            why = f"it has {len(ids)} caption ids for {len(record.captions)} captions; repair them, or set derive_ids"
            self.skips.row(record.where, why)
            return None
        return {
            "image": image,
            "image_id": image_id,
            "captions": [text for _, text in captions],
            "caption_ids": self._caption_ids(ids, image_id, captions),
            "split": self._split(record.split, record.file),
            "group": record.group,
            "family": record.family,
            "names": None if record.names is None else list(self._texts(record, record.names, "names")),
            **{name: text for name, text in record.extra.items() if list(self._texts(record, [text], name))},
        }

    def _split(self, stated: str | None, file: Path | None) -> str:
        """The split that a row states, or that a name speaks of."""
        if stated is not None:
            self.origins.add(STATED)
            return stated
        by_name = self.named_split(file)
        self.origins.add(NONE if by_name is None else NAMED)
        return by_name or "train"

    def _texts(self, record: Record, values: Iterable[Any], name: str) -> Iterator[str]:
        """The values that are text, of a column that a row can do without."""
        for value in values:
            if not isinstance(value, str):
                self.skips.part(f"{record.where}, {name}", f"it is not text but {value!r:.40}")
            elif not is_unicode(value):
                self.skips.part(f"{record.where}, {name}", "it is not UTF-8")
            else:
                yield value

    def _image(self, record: Record) -> dict[str, Any] | None:
        path = record.image_path if record.image is None else record.image.get("path")
        if path is not None and not is_unicode(path):
            self.skips.row(record.where, "its image path is not UTF-8")
        elif record.image is not None:
            return record.image
        elif path is None:
            self.skips.row(record.where, "it has no image")
        else:
            try:
                return {"path": self.paths.resolve(path, record.where)}
            except NoPathError as error:
                self.skips.row(record.where, str(error))
        return None

    def _captions(self, record: Record) -> list[tuple[int, str]]:
        """Usable captions with their position in the record."""
        good: list[tuple[int, str]] = []
        bad: list[tuple[int, str]] = []
        for position, stated in enumerate(record.captions):
            caption = str(stated) if self.config.labels and isinstance(stated, int) else stated
            problem = self._caption_problem(caption)
            if problem:
                bad.append((position, problem))
            else:
                good.append((position, caption.strip()))
        if not good and not self.captionless:
            self.skips.row(record.where, bad[0][1] if bad else _NO_CAPTION)
        else:
            for position, problem in bad:
                if not good and problem == _EMPTY:  # a cell of a picture without captions
                    continue
                self.skips.part(f"{record.where}, caption {position + 1}", problem)
        return good

    def _caption_problem(self, caption: Any) -> str | None:
        if caption is None:
            return _EMPTY
        if not isinstance(caption, str):
            return f"its caption is not text but {caption!r:.40}"
        if not caption.strip():
            return _EMPTY
        if len(caption) > self.config.max_caption_length:
            return f"its caption has {len(caption)} characters, more than max_caption_length"
        if not is_unicode(caption):
            return "its caption is not UTF-8"
        return None

    def _caption_ids(self, stated: list[Any] | None, image_id: int, captions: list[tuple[int, str]]) -> list[int]:
        if stated is None and len(captions) == 1:
            return [stable_hash("caption", image_id, captions[0][1], 0)]
        if stated is None:
            return _derived_ids([image_id], [text for _, text in captions], [0, len(captions)])
        return [self._id(stated[position]) for position, _ in captions]

    @staticmethod
    def _id(stated: Any) -> int:
        """A stated id as int64: integers, in digits or not, as they are; anything else by hash."""
        if type(stated) is int and 0 <= stated < 2**63:
            return stated
        text = str(stated)
        if len(text) < 20 and text.isascii() and text.isdigit() and str(int(text)) == text and int(text) < 2**63:
            return int(text)
        return stable_hash("id", text)


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; bytes that were not UTF-8 are read as lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_unicode(texts: Iterable[str | None]) -> bool:
    return is_unicode("".join(filter(None, texts)))


def _are_texts(lists: Iterable[list[Any] | None]) -> bool:
    """Whether all that some lists hold is text that can be stored."""
    values = list(chain.from_iterable(filter(None, lists)))
    return set(map(type, values)) <= {str} and _are_unicode(values)


def _lists(values: list[Any]) -> list[list[Any] | None] | None:
    """Cells that hold a list or nothing, which is None; None where one is neither."""
    cells = [None if is_missing(value) else value for value in values]
    return cells if set(map(type, cells)) <= {list, type(None)} else None


def _texts(values: list[Any], is_none: Callable[[Any], bool]) -> list[str | None]:
    """Scalars as texts, but for those that are none."""
    return [None if is_none(value) else as_text(value) for value in values]


def _is_none(value: Any) -> bool:
    return value is None


def _derived_ids(image_ids: list[int], captions: list[str], ends: Sequence[int]) -> list[int]:
    """Ids of the captions of some rows, see ``Columns``, from their texts.

    Not from their positions: the ids outlive a change of order, and rows of one image do not collide.
    """
    if len(captions) == len(image_ids):  # one each
        return stable_hashes("caption", image_ids, captions, 0)
    images, before = list[int](), list[int]()  # of each caption: the image, and how often its row had the text before
    for image_id, (start, end) in zip(image_ids, pairwise(ends), strict=True):
        seen: dict[str, int] = {}
        for text in captions[start:end]:
            images.append(image_id)
            before.append(seen.get(text, 0))
            seen[text] = before[-1] + 1
    return stable_hashes("caption", images, captions, before)
