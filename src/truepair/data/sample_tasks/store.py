"""The downstream data sets that are made of the bundled drawings, written once into a folder of the user's choice."""

from collections.abc import Callable
from pathlib import Path

from truepair.data.open import open_pairs
from truepair.data.sample_tasks import write_sample_nlvr2, write_sample_vqa
from truepair.data.sample_tasks.vqa import IMAGE_PATTERN
from truepair.data.table import PairTable
from truepair.data.tasks.nlvr2 import Nlvr2Source
from truepair.data.tasks.vqa_source import VqaSource
from truepair.files import writing_folder

ANSWERS = "answer_list.json"
"""File of the answer list in the folder of `sample_vqa`."""


def sample_vqa(folder: str | Path) -> dict[str, VqaSource]:
    """The questions of the splits train, val and test; written first, if the folder is not there.

    Raises:
        DataError: the folder cannot be written.
    """
    root = Path(folder)
    _write_once(root, write_sample_vqa)
    subtypes = {"train": "train2014", "val": "val2014", "test": "test2015"}
    return {
        split: VqaSource(
            questions=str(root / f"v2_OpenEnded_mscoco_{subtype}_questions.json"),
            annotations=str(root / f"v2_mscoco_{subtype}_annotations.json"),
            image_root=str(root),
            image_pattern=IMAGE_PATTERN,
        )
        for split, subtype in subtypes.items()
    }


def sample_nlvr2(folder: str | Path) -> dict[str, Nlvr2Source]:
    """The statements of the splits train, val and test; written first, if the folder is not there.

    Raises:
        DataError: the folder cannot be written.
    """
    root = Path(folder)
    _write_once(root, write_sample_nlvr2)
    files = {"train": "train", "val": "dev", "test": "test1"}
    return {
        split: Nlvr2Source(statements=str(root / f"{name}.json"), image_root=str(root / "images"))
        for split, name in files.items()
    }


def _write_once(root: Path, write: Callable[[PairTable, Path], None]) -> None:
    """Write a data set, unless it is there."""
    if not root.exists():
        with writing_folder(root, shared=True) as folder:
            write(open_pairs("sample"), folder)
