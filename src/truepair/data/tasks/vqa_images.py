"""Where the images of questions lie: by the path that is stated, or by their id in the layouts of COCO."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from truepair.data.tasks.base import TaskImagePaths
from truepair.errors import DataError

COCO_PATTERN = "{subtype}/COCO_{subtype}_{id:012d}.jpg"
"""The layout of VQA v2 and OK-VQA."""

_COCO_2017 = "{subtype}/{id:012d}.jpg"  # of A-OKVQA

_PLAIN_PATTERN = "{id}.jpg"  # of images that lists and GQA name by their id alone

_PART = re.compile(r"(train|val|test)(?:-?dev)?(20\d\d)")

# Photographs of train2014 and val2014 are those of train2017 and val2017, parted in another way and without the prefix.
_FOLDERS = {
    "train": ("train2014", "val2014", "train2017", "val2017"),
    "val": ("val2014", "train2014", "train2017", "val2017"),
    "test": ("test2015", "test2017", "test2014"),
}


class QuestionImages:
    """Finds the images of one source.

    Args:
        root: folder of the images.
        pattern: path of an image within it, of ``{subtype}`` and ``{id}``; with `COCO_PATTERN`, other layouts of COCO
            are looked through, too.
        outside: a stated path may leave the root.
        rows: collects the images of all sources.

    Attributes:
        elsewhere: how many images lie in another layout than that of their data set, by a pattern of it.
    """

    def __init__(self, root: str, pattern: str, *, outside: bool, rows: TaskImagePaths) -> None:
        self._root = Path(root).expanduser()
        self._pattern = pattern
        self._outside = outside
        self._rows = rows
        self._found: dict[tuple[str, int | str], str] = {}
        self.elsewhere: Counter[str] = Counter()

    def at(self, path: str) -> int:
        """Row of the image with a path.

        Raises:
            DataError: the path leaves the root, and may not.
            MissingImageError: there is no such file.
        """
        return self._rows.add(self._root, path, outside=self._outside)

    def of_question(self, image_id: int | str, subtype: str) -> int:
        """Row of an image that an official file of VQA names by its id, see `at`.

        Args:
            image_id: its id.
            subtype: data_subtype of the file, such as "val2014".
        """
        return self.at(self._coco(image_id, subtype, COCO_PATTERN))

    def of_list(self, image_id: int | str) -> int:
        """Row of an image that a list, or GQA's object, names by its id, see `at`."""
        pattern = _PLAIN_PATTERN if self._pattern == COCO_PATTERN else self._pattern
        return self.at(_filled(pattern, image_id, ""))

    def of_aokvqa(self, image_id: int | str, split: str) -> int:
        """Row of an image that A-OKVQA names by its id and its split, see `at`."""
        return self.at(self._coco(image_id, f"{split}2017" if split else "", _COCO_2017))

    def _coco(self, image_id: int | str, subtype: str, usual: str) -> str:
        """The path of an image of COCO: the first that there is, or else the usual one."""
        if self._pattern != COCO_PATTERN:
            return _filled(self._pattern, image_id, subtype)
        key = (subtype, image_id)
        if key not in self._found:
            self._found[key] = self._look(image_id, subtype, usual)
        return self._found[key]

    def _look(self, image_id: int | str, subtype: str, usual: str) -> str:
        first, *others = [usual, *_layouts(subtype)] if subtype else _layouts("")
        own = _filled(first, image_id, subtype)
        if (self._root / own).is_file():
            return own
        for layout in others:
            path = _filled(layout, image_id, subtype)
            if (self._root / path).is_file():
                self.elsewhere[layout] += 1
                return path
        return own


def _layouts(subtype: str) -> Iterator[str]:
    """Patterns of the files of COCO's photographs, as people keep them."""
    part = _PART.fullmatch(subtype)
    if subtype and part is None:
        return  # drawings, say
    folders = _FOLDERS[part[1]] if part else tuple(dict.fromkeys(name for group in _FOLDERS.values() for name in group))
    names = {folder: ("" if "2017" in folder else f"COCO_{folder}_") + "{id:012d}.jpg" for folder in folders}
    for above in ("", "images/"):
        yield from (f"{above}{folder}/{name}" for folder, name in names.items())
        yield from (f"{above}{name}" for name in dict.fromkeys(names.values()))


def _filled(pattern: str, image_id: int | str, subtype: str) -> str:
    """A pattern with an id and a subtype in it.

    Raises:
        DataError: it wants a number, and the id is none.
    """
    try:
        return pattern.format(subtype=subtype, id=image_id)
    except ValueError:  # the pattern wants a number
        if not str(image_id).isdecimal():
            raise DataError(f"image_pattern is '{pattern}', and an image is called {image_id}; give another") from None
        return pattern.format(subtype=subtype, id=int(image_id))
