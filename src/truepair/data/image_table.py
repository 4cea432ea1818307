"""The images of a downstream task as a table, so that everything that reads images of pairs reads them, too."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from truepair.data.randomness import stable_hash
from truepair.data.table import PairTable
from truepair.errors import DataError


class ImagePaths:
    """Collects the distinct images of a task, in order of their first use.

    Args:
        what: names the images in messages.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._rows: dict[str, int] = {}
        self._ids: list[int] = []

    def add(self, root: Path, relative: str) -> int:
        """Row of an image.

        Args:
            root: folder of the images.
            relative: path within it. The image's id is a hash of this alone, so that data may move.
        """
        path = str(root / relative)
        row = self._rows.setdefault(path, len(self._rows))
        if row == len(self._ids):
            self._ids.append(stable_hash("image", relative))
        return row

    def table(self) -> PairTable:
        """One row an image, each with an empty caption.

        Raises:
            DataError: no images, the first of them is missing, or two images in different folders have one name.
        """
        if not self._rows:
            raise DataError(f"{self.what} names no images; check the file")
        paths = list(self._rows)
        if not Path(paths[0]).is_file():
            raise DataError(f"image {paths[0]} of {self.what} is missing; check image_root and the pattern of names")
        if len(set(self._ids)) < len(self._ids):
            raise DataError(f"{self.what} has images of one name under several roots; give them one image_root")
        return _table(paths, self._ids, self.what)


def _table(paths: Sequence[str], ids: Sequence[int], name: str) -> PairTable:
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image": pa.array([{"bytes": None, "path": path} for path in paths], type=cell),
        "image_id": pa.array(ids, type=pa.int64()),
        "captions": pa.array([[""]] * len(paths), type=pa.list_(pa.string())),
        "caption_ids": pa.array([[number] for number in ids], type=pa.list_(pa.int64())),
        "split": pa.array(["all"] * len(paths)),
    }
    return PairTable(Dataset(pa.table(columns)), name)
