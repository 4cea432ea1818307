"""Statements about two drawings, in the layout of NLVR2."""

import json
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from truepair.data.sample_tasks.drawings import (
    SPLITS,
    Drawing,
    different,
    partners,
    read_drawings,
    shuffled,
)
from truepair.data.table import PairTable
from truepair.files import write_text
from truepair.randomness import stable_hash

_FILES = {"train": "train", "val": "dev", "test": "test1"}

_SETS_PER_FOLDER = 100


class _Set(NamedTuple):
    """Three drawings: two of one category, and a third of another."""

    first: Drawing
    second: Drawing
    third: Drawing

    def pairs(self) -> list[tuple[Drawing, Drawing]]:
        """The four pairs of pictures."""
        a, b, c = self
        return [(a, b), (b, a), (a, c), (c, b)]

    def statements(self) -> list[tuple[str, tuple[bool, bool, bool, bool]]]:
        """Sentences, and whether each is true of the four pairs: of two of them every time."""
        a, b, c = self.first.name, self.second.name, self.third.name
        return [
            (f"The left picture shows {a}.", (True, False, True, False)),
            (f"The right picture shows {b}.", (True, False, False, True)),
            (f"One picture shows {a} and the other shows {b}.", (True, True, False, False)),
            (f"One of the pictures shows {c}.", (False, False, True, True)),
            (f"Both pictures are of the kind {self.first.category}.", (True, True, False, False)),
        ]


def write_sample_nlvr2(
    table: PairTable, folder: str | Path, *, train_sets: int = 500, dev_sets: int = 60, test_sets: int = 250
) -> None:
    """Write statements and images; every call writes the same.

    A set is four pairs of drawings, and five sentences about them: 20 statements. Each sentence is true of two of the
    pairs and false of the other two, so whoever does not look is right half the time. The drawings of dev and test are
    held out.

    Files: ``train.json``, ``dev.json`` and ``test1.json`` (JSON Lines), and images as
    ``images/train/0/train-0-0-img0.png`` or ``images/dev/dev-0-0-img0.png``.

    Args:
        table: the bundled sample, or a part of it.
        folder: where to write.
        train_sets: most sets of training drawings; a drawing is in one set at most as first or second of its category.
        dev_sets: the same for the validation drawings.
        test_sets: the same for the test drawings.

    Raises:
        DataError: the table is of another kind.
    """
    root = Path(folder)
    for split, most in zip(SPLITS, (train_sets, dev_sets, test_sets), strict=True):
        sets = list(islice(_sets(read_drawings(table, split), split), most))
        lines = [line for number, each in enumerate(sets) for line in _lines(each, _FILES[split], number)]
        write_text(root / f"{_FILES[split]}.json", "".join(json.dumps(line) + "\n" for line in lines))
        for number, each in enumerate(sets):
            _write_images(table, each, root, _FILES[split], number)


def _sets(drawings: Sequence[Drawing], split: str) -> Iterator[_Set]:
    """Deal the drawings of a split: two of one category, and a third of another."""
    pairs = partners(drawings, split, "pair")
    pairs.sort(key=lambda pair: stable_hash(split, "set", pair[0].image_id))
    thirds = cycle(shuffled(drawings, split, "third"))
    for first, second in pairs:
        for third in islice(thirds, len(drawings)):
            if third.category != first.category and different(third, first) and different(third, second):
                yield _Set(first, second, third)
                break


def _lines(each: _Set, file: str, number: int) -> Iterator[dict[str, object]]:
    """The statements of a set, with the fields of the official files."""
    folder = {"directory": number // _SETS_PER_FOLDER} if file == "train" else {}
    for sentence, (text, truths) in enumerate(each.statements()):
        for pair, truth in enumerate(truths):
            left, right = each.pairs()[pair]
            yield {
                "query": each.first.name,
                "uid": f"{stable_hash(file, number, pair):016x}",
                "synset": each.first.category,
                "sentence": text,
                "left_url": f"sample:{left.image_id}",
                "writer": "0",
                "right_url": f"sample:{right.image_id}",
                "identifier": f"{file}-{number}-{pair}-{sentence}",
                "label": str(truth),
                **folder,
            }


def _write_images(table: PairTable, each: _Set, root: Path, file: str, number: int) -> None:
    folder = root / "images" / file / (str(number // _SETS_PER_FOLDER) if file == "train" else "")
    folder.mkdir(parents=True, exist_ok=True)
    images = {drawing.row: table.image(drawing.row) for drawing in each}
    for pair, sides in enumerate(each.pairs()):
        for side, drawing in enumerate(sides):
            images[drawing.row].save(folder / f"{file}-{number}-{pair}-img{side}.png")
