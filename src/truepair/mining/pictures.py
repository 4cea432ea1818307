"""The pictures of a mined folder, by their numbers: those in files, and those that lie in a table or a tar."""

import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from truepair.data.images import BadImageError, load_image
from truepair.data.source import SourceConfig
from truepair.data.splits import DataConfig, build_tables
from truepair.data.table import PairTable
from truepair.data.transforms import TransformConfig
from truepair.errors import DataError, TruepairError
from truepair.files import write_json
from truepair.mining.candidates import Candidates

MINING = "mining.json"
"""Says what was mined, and how."""

_SOURCES = ("sources", "train", "validation", "test")


class MinedPictures:
    """The pictures that the candidates of a folder are about.

    Args:
        candidates: of the folder.
        mining: what its ``mining.json`` says.
    """

    def __init__(self, candidates: Candidates, mining: dict[str, Any]) -> None:
        self._candidates = candidates
        self._mining = mining

    def __len__(self) -> int:
        return len(self._candidates.paths)

    def path(self, number: int) -> Path | None:
        """The file of a picture; None where it is a part of a file."""
        stated = self._candidates.paths[number]
        if stated is None or "#" in stated.rpartition("/")[2]:
            return None
        return Path(self._mining["folder"], stated)

    def image(self, number: int) -> Image.Image:
        """A picture, 8-bit RGB.

        Raises:
            BadImageError: it cannot be read any more.
        """
        path = self.path(number)
        return load_image(self.stored(number) if path is None else {"path": str(path)})

    def stored(self, number: int) -> dict[str, Any]:
        """The image cell of a picture in the mined table.

        Raises:
            BadImageError: the table is gone, or is another one now.
        """
        cell: dict[str, Any] = self._table.rows[int(self._candidates.rows[number])]["image"]
        return cell

    @cached_property
    def _table(self) -> PairTable:
        """The mined pairs, opened again.

        Raises:
            BadImageError: they are gone, or are other ones now.
        """
        sources = "; ".join(self._mining["sources"])
        try:
            table = build_tables(_data_of(self._mining["data"])).train
        except TruepairError as error:
            raise BadImageError(f"the pictures lie in {sources}, which cannot be read any more: {error}") from error
        if len(table) != self._mining["rows"]:
            raise BadImageError(f"{sources} has changed since it was mined; run truepair mine again")
        left_out = [int(row) for row in self._mining["left_out"]]
        return table.select(np.setdiff1d(np.arange(len(table)), left_out))


def open_pictures(folder: Path) -> MinedPictures:
    """The pictures of a mined folder.

    Raises:
        DataError: it holds nothing that was mined.
    """
    return MinedPictures(Candidates.load(folder), read_mining(folder))


def read_mining(folder: Path) -> dict[str, Any]:
    """What a mined folder says of itself.

    Raises:
        DataError: it does not, or is damaged.
    """
    try:
        stated: dict[str, Any] = json.loads((folder / MINING).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no readable {MINING} ({error}); run truepair mine first") from error
    return stated


def write_mining(folder: Path, data: DataConfig, facts: dict[str, Any]) -> None:
    """Write what was mined, with sources by paths that hold anywhere.

    Raises:
        OSError: the disk refuses.
    """
    settings = asdict(data)
    for name in _SOURCES:
        settings[name] = None if settings[name] is None else [_absolute(source) for source in settings[name]]
    named = [source if isinstance(source, str) else source["source"] for source in settings["sources"] or ()]
    named += [source if isinstance(source, str) else source["source"] for source in settings["train"] or ()]
    write_json(folder / MINING, {"sources": named, "folder": str(Path.cwd()), "data": settings, **facts}, error=None)


def _absolute(source: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(source, dict):
        return source | {"source": _absolute(source["source"])}
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source


def _data_of(stated: dict[str, Any]) -> DataConfig:
    """The config that :func:`write_mining` wrote."""
    settings = dict(stated)
    for name in _SOURCES:
        if settings[name] is not None:
            settings[name] = [source if isinstance(source, str) else _source(source) for source in settings[name]]
    transform = settings["transform"] | {"crop_scale": tuple(settings["transform"]["crop_scale"])}
    return DataConfig(**(settings | {"transform": TransformConfig(**transform)}))


def _source(stated: dict[str, Any]) -> SourceConfig:
    columns = stated["columns"]
    return SourceConfig(**(stated | {"columns": None if columns is None else tuple(columns)}))
