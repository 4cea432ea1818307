"""Lists in JSON: JSON Lines, ALBEF's, Karpathy's and COCO's."""

import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from truepair.data.formats.json_stream import is_json_list, list_entries, member_entries
from truepair.data.formats.record import (
    CAPTION_NAMES,
    CAPTIONS_ELSEWHERE,
    IMAGE_NAMES,
    IMAGE_SUFFIXES,
    STATED_FIELDS,
    Entries,
    LateFieldError,
    Reader,
    Record,
    Skips,
    beside,
    extra_fields,
    in_runs,
)
from truepair.data.formats.text import decoded, open_text, text_lines
from truepair.data.source import SourceConfig
from truepair.data.split_names import split_of_word
from truepair.errors import DataError

_CHUNK = 1 << 20  # bytes read at once to tell the layout of a file

# A list under a name, whose first object has a caption.
_OF_PAIRS = re.compile(rf'"\w+"\s*:\s*\[\s*\{{[^{{}}]*"({"|".join(CAPTION_NAMES)})"\s*:', re.IGNORECASE)

_FIRST_NAME = re.compile(r'\s*\{\s*"([^"\\]+)"\s*:\s*["\[]')

_PARSED_AT_ONCE = 1 << 17  # characters of lines

_BETWEEN = str(2**61 - 1)

_FIRST_LINES = 1000  # whose fields are taken to be those of all, until another comes

_DECODER = json.JSONDecoder()


class JsonlReader(Reader):
    """Reads lines such as ``{"image": "a.jpg", "captions": ["a dog"], "image_id": 7, "split": "train"}``.

    Optional fields: image_id, caption_ids, split, group, family, names. Further scalar fields become text columns.
    """

    suffixes = (".jsonl", ".ndjson")

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._looked_at: int | None = _FIRST_LINES

    @cached_property
    def extra(self) -> tuple[str, ...]:
        """Names of the further fields of the first lines, so that the rest is parsed once; of all, if those have more.

        Raises:
            DataError: as for ``records``.
        """
        names: dict[str, None] = {}
        for _, entry in islice(json_lines(self.config.path, self.config.encoding), self._looked_at):
            try:
                names.update(dict.fromkeys(extra_fields(entry, *_pair_fields(self, entry))))
            except DataError:  # `records` lists the line
                continue
        return tuple(names)

    def records(self, skips: Skips) -> Iterator[Entries]:
        """Read the lines in order; one that is no JSON object, or has no image or caption field, is left out.

        Raises:
            DataError: the file is not text of its encoding.
            LateFieldError: a line has a field that ``extra`` did not name.
        """
        return in_runs(self._entries(skips))

    def _entries(self, skips: Skips) -> Iterator[tuple[Entries, int, dict[str, Any]] | None]:
        place, extra = f"{self.config.path.name} line", self.extra
        common = dict[tuple[str, str], Entries]()
        named = dict[tuple[str, ...], Entries]()  # layouts of lines whose fields all have a place
        for number, entry in json_lines(self.config.path, self.config.encoding):
            layout = tuple(entry) if type(entry) is dict else ()
            if layout in named:
                yield named[layout], number, entry
                continue
            try:
                names = image_name, caption_name = _pair_fields(self, entry)
            except DataError as error:
                yield None
                skips.row(f"{place} {number}", str(error))
                continue
            if not set(extra).issuperset(extra_fields(entry, image_name, caption_name)):
                self._looked_at = None
                del self.extra
                raise LateFieldError
            if names not in common:
                common[names] = Entries(place, image_name, caption_name, extra, lines=self.has_lines(caption_name))
            if {*extra, *STATED_FIELDS, "image", "captions", image_name, caption_name}.issuperset(layout):
                named[layout] = common[names]
            yield common[names], number, entry


class AlbefReader(Reader):
    """Reads a list of ``{"image": path, "caption": text or list of texts, "image_id": optional}``.

    The files of the ALBEF line repeat an image for each of its captions; ``repeats="merge"`` makes one row of these.
    The list may stand under a name of an object, as in ``{"data": [...]}``. An object of paths with their captions,
    ``{"a.jpg": ["a dog"]}``, is read as well.
    """

    def records(self, skips: Skips) -> Iterator[Entries]:
        """Read the entries in order; one that is no object with an image and a caption is left out.

        Raises:
            DataError: the file is no JSON list.
        """
        return in_runs(self._rows(skips))

    def _rows(self, skips: Skips) -> Iterator[tuple[Entries, int, dict[str, Any]] | None]:
        place = f"{self.config.path.name} entry"
        common = dict[tuple[str, str], Entries]()
        for number, entry in enumerate(self._entries(), 1):
            if self.captionless and isinstance(entry, str):
                entry = {"image": entry}
            try:
                names = _pair_fields(self, entry)
            except DataError as error:
                yield None
                skips.row(f"{place} {number}", str(error))
                continue
            if names not in common:
                common[names] = Entries(place, *names, lines=self.has_lines(names[1]))
            yield common[names], number, entry

    def _entries(self) -> Iterable[Any]:
        """The entries of the list, or of what stands for one.

        Raises:
            DataError: there is none.
        """
        path, encoding = self.config.path, self.config.encoding
        if is_json_list(path, encoding):
            return list_entries(path, encoding)
        content = load_json(path, encoding)
        if isinstance(content, dict):
            if content and all(_is_image(name) for name in content):
                return [{"image": name, "caption": captions} for name, captions in content.items()]
            lists = [value for value in content.values() if isinstance(value, list) and value]
            if (found := next((value for value in lists if self._has_pairs(value[0])), None)) is not None:
                return found
        kind = type(content).__name__
        raise DataError(f"{path} holds no list but one {kind}; give its format, or wrap it in a list")

    def _has_pairs(self, entry: Any) -> bool:
        try:
            _pair_fields(self, entry)
        except DataError:
            return False
        return True


class KarpathyReader(Reader):
    """Reads ``{"images": [{filename, filepath?, imgid, split, sentids, sentences: [{raw, sentid}]}]}``.

    Image ids are ``imgid``, caption ids ``sentid``. The split "restval" stays a split of its own.
    """

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the images in order; one without a file name or sentences is left out.

        Raises:
            DataError: the file is not in this layout.
        """
        path = self.config.path
        name = path.name
        for number, (_, entry) in enumerate(member_entries(path, ("images",), self.config.encoding), 1):
            record = _karpathy_record(entry, f"{name} image {number}")
            if record is None:
                skips.row(f"{name} image {number}", "it has no filename or no list of sentences")
            else:
                yield record


class CocoReader(Reader):
    """Reads ``{"images": [{id, file_name}], "annotations": [{id, image_id, caption}]}``.

    Images are looked for in the layout of COCO's archives, too: ``val2014`` beside
    the folder that holds ``captions_val2014.json``. Where pictures need no captions, a file without annotations, such
    as ``image_info_test2014.json``, or with others, such as ``instances_val2014.json``, is read as well.
    """

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        above, images = config.path.parent.parent, config.path.stem.rpartition("_")[2]
        self.roots = [
            *beside(config.path),
            config.path.parent / images,
            above / images,
            above / "images" / images,
        ]

    def records(self, skips: Skips) -> Iterator[Record]:
        """Read the images in order, each with its annotations; an entry that lacks what makes it one is left out.

        Raises:
            DataError: the file is not in this layout.
        """
        path = self.config.path
        images, by_image = _coco_lists(path, self.config.encoding, skips, self.captionless)
        for number, (name, image_id) in enumerate(images, 1):
            where = f"{path.name} image {number}"
            if not isinstance(name, str) or image_id is None:
                skips.row(where, "it has no file_name, or no id that is a number or a text")
                continue
            own = by_image.pop(image_id, [])  # caption and id in turn
            ids = own[1::2]
            yield Record(
                where=where,
                key=name,
                image_path=name,
                captions=own[::2],
                image_id=image_id,
                caption_ids=None if None in ids else ids,
            )
        for image_id, own in by_image.items():
            why = f"its {len(own) // 2} annotations belong to no image of the file"
            skips.part(f"{path.name} image id {image_id}", why)


def json_format(path: Path, encoding: str | None = None, *, captionless: bool = False) -> str:
    """Name of the format of a JSON file, by what it holds, whatever its ending.

    ALBEF's is a list, or an object that holds one; Karpathy's an object with "sentences", COCO's one with "annotations"
    and "images". Lines that are objects each are JSON Lines.

    Args:
        path: the file.
        encoding: of the file.
        captionless: pictures need no captions; COCO's object then has "images" with file names at least.

    Raises:
        DataError: it is none of them.
    """
    try:
        with open_text(path, encoding) as file:
            head = chunk = file.read(_CHUNK)
            if head.lstrip().startswith("["):
                return "albef"
            if _is_json_lines(head, captionless):
                return "jsonl"
            keys, tail = set[str](), ""
            while chunk:
                # Within a JSON text a quote would be escaped, so these are keys.
                keys.update(re.findall(r'"(sentences|annotations|images)"\s*:', tail + chunk))
                if "sentences" in keys:
                    return "karpathy"
                if keys == {"annotations", "images"}:
                    return "coco"
                tail = chunk[-64:]
                chunk = file.read(_CHUNK)
    except UnicodeError as error:
        raise DataError(f"{path} is not text ({error}); give encoding") from None
    if _OF_PAIRS.search(head) or ((name := _FIRST_NAME.match(head)) and _is_image(name[1])):
        return "albef"
    is_info = "images" in keys and '"file_name"' in head
    if "annotations" in keys or (is_info and captionless):
        return "coco"
    if is_info:
        raise DataError(f"{path} lists pictures without captions; {CAPTIONS_ELSEWHERE}")
    if captionless:
        return "albef"
    raise DataError(
        f"{path} is neither a JSON list of pairs nor in the layout of Karpathy or COCO; give format, or repair it"
    )


def _is_json_lines(head: str, captionless: bool) -> bool:
    """Whether a text begins with lines of JSON objects; one line may also be an image with its caption."""
    line, _, rest = head.lstrip().partition("\n")
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(entry, dict):
        return False
    names = {name.lower() for name in entry}
    if rest.lstrip().startswith("{"):
        return True
    return bool(names.intersection(IMAGE_NAMES) and (captionless or names.intersection(CAPTION_NAMES)))


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def load_json(path: Path, encoding: str | None = None) -> Any:
    """Parse a JSON file.

    Bytes that are none of its encoding become lone surrogates, and are found when captions are checked.

    Raises:
        DataError: the file is not JSON.
    """
    try:
        return json.loads(decoded(path.read_bytes(), encoding))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); repair it, or give its format") from None


def list_in(content: Any, name: str, path: Path) -> list[dict[str, Any]]:
    """The list of objects under a name of a JSON object.

    Raises:
        DataError: there is no such list.
    """
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path} has no list of objects under '{name}'; give its format, or repair it")
    return entries


def json_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, Any]]:
    """The values of a file of JSON Lines, each with the number of its line; an error where one is no JSON.

    Bytes that are not UTF-8 become lone surrogates, and are found when captions are checked.

    Raises:
        DataError: the file is not text of its encoding.
    """
    with open_text(path, encoding) as file:
        for numbers, lines in _some_lines(text_lines(file, path)):
            yield from zip(numbers, _parsed(lines), strict=True)


def _some_lines(lines: Iterable[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Lines that are not blank, with their numbers, so many characters at once.

    Raises:
        DataError: as ``lines``, after the lines before it.
    """
    numbers, some, size = list[int](), list[str](), 0
    try:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            numbers.append(number)
            some.append(line)
            size += len(line)
            if size >= _PARSED_AT_ONCE:
                yield numbers, some
                numbers, some, size = [], [], 0
    except DataError:
        yield numbers, some
        raise
    yield numbers, some


def _parsed(lines: list[str]) -> list[Any]:
    """The value of each line, or an error where one is no JSON.

    All lines are parsed as one list with a number between any two, which takes half the time. Each line is one value if
    all of these numbers are entries of that list, every other one: no line has the digits, so that they stand for the
    commas of ours, and no fraction equals an odd number of so many digits.
    """
    text = f",{_BETWEEN},".join(lines)
    if text.count(_BETWEEN) == len(lines) - 1:
        try:
            values = json.loads(f"[{text}]")
        except (ValueError, RecursionError):  # one of the lines is no JSON: which, is found below
            values = []
        if len(values) == 2 * len(lines) - 1 and values[1::2] == [int(_BETWEEN)] * (len(lines) - 1):
            return list(values[::2])
    return [_value(line) for line in lines]


def _value(line: str) -> Any:
    """The value of a line, or an error."""
    try:
        return _loads(line)
    except (ValueError, RecursionError) as error:
        return DataError(f"it is not JSON ({error})")


def _pair_fields(reader: Reader, entry: Any) -> tuple[str, str]:
    """Names of the image and the caption of an entry.

    Raises:
        DataError: it is none, and why.
    """
    if isinstance(entry, DataError):
        raise entry
    if not isinstance(entry, dict):
        raise DataError(f"it is not an object but {entry!r:.40}")
    return reader.pair_columns(entry, "it")


def _loads(line: str) -> Any:
    """``json.loads`` in half the time, where nothing but space stands before and after the value.

    Raises:
        ValueError: it is not JSON.
    """
    text = line.strip(" \t\r\n")
    entry, end = _DECODER.raw_decode(text)
    return entry if end == len(text) else json.loads(line)


def _karpathy_record(entry: Any, where: str) -> Record | None:
    """An image with its sentences; None for an entry that is none."""
    if not isinstance(entry, dict):
        return None
    sentences, name = entry.get("sentences"), entry.get("filename")
    if not isinstance(name, str) or not isinstance(sentences, list):
        return None
    sentences = [sentence if isinstance(sentence, dict) else {"raw": sentence} for sentence in sentences]
    ids = [sentence.get("sentid") for sentence in sentences]
    path = f"{entry['filepath']}/{name}" if entry.get("filepath") else name
    return Record(
        where=where,
        key=path,
        image_path=path,
        captions=[sentence.get("raw") for sentence in sentences],
        image_id=entry.get("cocoid", entry.get("imgid")),  # COCO's own id is what judgements refer to
        caption_ids=None if None in ids else ids,
        split=None if entry.get("split") is None else split_of_word(str(entry["split"])),
    )


def _coco_lists(
    path: Path, encoding: str | None, skips: Skips, captionless: bool
) -> tuple[list[tuple[Any, Any]], dict[Any, list[Any]]]:
    """Name and id of each image, and by image id the captions and their ids in turn; all else is dropped on the way.

    Args:
        path: the file.
        encoding: of the file.
        skips: takes annotations that are no captions.
        captionless: there need be no captions.

    Raises:
        DataError: the file is not in this layout, or no annotation has a caption.
    """
    images, by_image = list[tuple[Any, Any]](), dict[Any, list[Any]]()
    number, first = 0, ""
    optional = ("annotations",) if captionless else ()
    for name, entry in member_entries(path, ("images", "annotations"), encoding, optional=optional):
        of_entry = entry.get if isinstance(entry, dict) else {}.get
        if name == "images":
            images.append((of_entry("file_name"), _hashable(of_entry("id"))))
            continue
        number += 1
        if captionless and of_entry("caption") is None:
            continue  # it is of boxes, say
        if of_entry("caption") is None or _hashable(of_entry("image_id")) is None:
            first = first or f"{path.name} annotation {number}"
            skips.row(
                f"{path.name} annotation {number}", "it has no caption, or no image_id that is a number or a text"
            )
            continue
        by_image.setdefault(entry["image_id"], []).extend((entry["caption"], entry.get("id")))
    if first and not by_image:
        raise DataError(
            f"{first} has no caption, or no image_id that is a number or a text, nor has another; give a captions file"
        )
    return images, by_image


def _hashable(value: Any) -> Any:
    """A number or a text; None for what can be no id."""
    return value if isinstance(value, str | int | float) else None
