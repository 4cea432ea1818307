"""Which members of a tar, or files of a folder, are one sample: an image, and texts of its name."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Generic, TypeVar

from truepair.data.formats.record import CAPTION_NAMES, IMAGE_SUFFIXES, Record, captions_in, state_fields, usual_name
from truepair.data.source import SourceConfig

Place = TypeVar("Place")

LARGEST_TEXT = 16 << 20  # bytes

CAPTION_ENDINGS = (".txt", ".caption", ".captions", ".text", ".alt.txt")
"""Of files that hold captions; of several, the first."""

UNREAD_IMAGES = frozenset(
    (".heic", ".heif", ".jxl", ".svg", ".psd", ".tga", ".ico", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw")
)


def caption_endings(config: SourceConfig) -> tuple[str, ...]:
    """Endings of the files that hold captions: the usual ones, or the one that the user names."""
    wanted = config.caption_column
    return CAPTION_ENDINGS if wanted is None else (f".{wanted.removeprefix('.').lower()}",)


@dataclass
class Sample(Generic[Place]):
    """An image with the texts of its name.

    Attributes:
        key: the name of both, without ending.
        image: where the image is.
        unread: its ending, if it is an image of a kind that is not read.
        texts: where the texts are, by ending in lower case.
        others: endings of further members of this name.
    """

    key: str
    image: Place
    unread: str | None = None
    texts: dict[str, Place] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)


@dataclass
class Samples(Generic[Place]):
    """The samples of a shard or a folder, and the names that belong to none.

    Attributes:
        found: the samples, in order of their images.
        dotted: images with a dot within their name, where samples end at the first.
        alone: texts without an image.
        further: images beside the one of a sample.
        unused: how many other members there are, by ending.
    """

    found: list[Sample[Place]] = field(default_factory=list)
    dotted: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    further: list[str] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)


def samples_of(
    members: Iterable[tuple[str, Place]], endings: tuple[str, ...], *, key_split: str, one_image: bool
) -> Samples[Place]:
    """Sort members into samples.

    A text belongs to the image whose name it has without its ending (``a.jpg`` and ``a.alt.txt``), or with the image's
    own ending before (``a.jpg.txt``).

    Args:
        members: name and place of each, folders with a slash.
        endings: of captions, in lower case.
        key_split: whether an image's name ends at the "first" or the "last" dot.
        one_image: a further image of one name is no sample of its own.
    """
    samples, others = Samples[Place](), list[tuple[str, Place]]()
    by_name: dict[str, list[Sample[Place]]] = {}  # by key, and by the whole name of the image
    for name, place in members:
        folder, slash, last = name.rpartition("/")
        stem, _, ending = (last.partition if key_split == "first" else last.rpartition)(".")
        suffix, key = f".{last.rpartition('.')[2].lower()}", f"{folder}{slash}{stem}"
        if suffix not in IMAGE_SUFFIXES and suffix not in UNREAD_IMAGES:
            others.append((name, place))
        elif f".{ending.lower()}" != suffix:
            samples.dotted.append(name)
        elif one_image and key in by_name:
            samples.further.append(name)
        else:
            sample = Sample(key, place, unread=suffix if suffix in UNREAD_IMAGES else None)
            samples.found.append(sample)
            by_name.setdefault(key, []).append(sample)
            by_name.setdefault(name, []).append(sample)
    for name in samples.dotted[:]:
        folder, slash, last = name.rpartition("/")
        if f"{folder}{slash}{last.partition('.')[0]}" in by_name:
            samples.dotted.remove(name)
            samples.further.append(name)
    for name, place in others:
        _join(samples, by_name, name, place, endings, key_split)
    return samples


def _join(
    samples: Samples[Place],
    by_name: Mapping[str, list[Sample[Place]]],
    name: str,
    place: Place,
    endings: tuple[str, ...],
    key_split: str,
) -> None:
    """Give a member that is no image to the samples that it belongs to."""
    lower, texts = name.lower(), (*endings, ".json")
    fitting = [ending for ending in texts if lower.endswith(ending)]
    for ending in fitting:
        owners = by_name.get(name[: -len(ending)])
        if owners is not None:
            for sample in owners:
                sample.texts.setdefault(ending, place)
            return
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    suffix = path.suffix.lower()
    whole = f".{ending.lower()}"
    if fitting and (whole in texts or key_split == "last"):
        samples.alone.append(name)
        return
    for sample in by_name.get(str(path.with_name(stem)), ()):
        sample.others.add(whole)
    samples.unused[whole if whole == suffix else f"*{suffix} with more dots"] += 1


def fill(
    record: Record, sample: Sample[Any], texts: Mapping[str, str], config: SourceConfig, *, captionless: bool = False
) -> str | None:
    """Put the texts of a sample into its record.

    Args:
        record: the record to fill.
        sample: the sample.
        texts: its texts, by ending.
        config: the source.
        captionless: it may have no caption.

    Returns:
        Why the sample cannot be used, or None.
    """
    if sample.unread is not None:
        return f"its image is {sample.unread}, a kind that is not read; save it as JPEG or PNG"
    try:
        entry = json.loads(texts.get(".json", "{}"))
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict | list | str):
        return "its .json is neither a JSON object nor a list"
    ending = next((ending for ending in caption_endings(config) if ending in texts), None)
    record.captions = list(_json_captions(entry, config)) if ending is None else captions_in(texts[ending], config)
    if isinstance(entry, dict):
        state_fields(record, entry)
    if record.captions or captionless:
        return None
    if ending is not None:
        return f"it has no caption: its {ending} is empty"
    there = [*sorted(sample.others), *(f"the field {name}" for name in entry if isinstance(entry, dict))]
    named = f"; if one is in {', '.join(there[:8])}, name it with caption_column" if there else ""
    return f"it has no caption{named}"


def _json_captions(entry: Any, config: SourceConfig) -> Iterator[Any]:
    """The captions of ``.json``: of a list, those of each item."""
    if isinstance(entry, list):
        for item in entry:
            yield from _json_captions(item, config)
    elif isinstance(entry, dict):
        wanted = CAPTION_NAMES if config.caption_column is None else (config.caption_column,)
        usual = {usual_name(name): value for name, value in entry.items()} | entry
        found: Any = next((usual[name] for name in wanted if name in usual), [])
        yield from found if isinstance(found, list) else [found]
    else:
        yield entry
