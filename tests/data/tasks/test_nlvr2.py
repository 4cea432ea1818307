from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.makers import noise, put, put_jsonl
from tests.data.tasks.test_vqa import TOKENIZER
from truepair.data.tasks.nlvr2 import Nlvr2Collator, Nlvr2Dataset, Nlvr2Source, open_nlvr2
from truepair.data.tokens import tokenize_captions
from truepair.data.transforms import TransformConfig, build_transform
from truepair.errors import DataError
from truepair.sampling.batches import Visit


def entry(identifier: str, sentence: str, label: str, directory: int | None = None) -> dict[str, Any]:
    """A line of the official files, field for field; dev and test lines have votes and no directory."""
    line = {
        "query": "acorns6",
        "uid": "0bb50d8d-2cd9-4fef-a4ca-4b6a6cd4a8e0",
        "synset": "acorn",
        "sentence": sentence,
        "left_url": "https://example.org/left.jpg",
        "writer": "0_0",
        "right_url": "https://example.org/right.jpg",
        "identifier": identifier,
        "label": label,
    }
    return {**line, "validation": {"144": "True"}} if directory is None else {**line, "directory": directory}


TRAIN = [
    entry("train-10171-0-0", "An image shows one acorn.", "True", directory=18),
    entry("train-10171-1-0", "An image shows one acorn.", "False", directory=18),
]
DEV = [entry("dev-0-0-0", "The left image shows a dog.", "False"), entry("dev-0-0-1", "Both show dogs.", "True")]


def official(folder: Path) -> list[Nlvr2Source]:
    for number, name in enumerate(("train/18/train-10171-0", "train/18/train-10171-1", "dev/dev-0-0")):
        for side in (0, 1):
            put(folder / "images" / f"{name}-img{side}.png", noise(2 * number + side))
    files = [put_jsonl(folder / "train.json", TRAIN), put_jsonl(folder / "dev.json", DEV)]
    return [Nlvr2Source(statements=str(file), image_root=str(folder / "images")) for file in files]


def test_the_official_layout(tmp_path: Path) -> None:
    table = open_nlvr2(official(tmp_path))
    assert len(table) == 4 and len(table.images) == 6
    assert list(table.statements["label"]) == [1, 0, 0, 1]
    assert table.statements[2] == {
        "identifier": "dev-0-0-0",
        "left": 4,
        "right": 5,
        "sentence": "The left image shows a dog.",
        "label": 0,
    }
    assert list(table.statements["left"]) == [0, 2, 4, 4]
    assert table.images.rows[3]["image"]["path"].endswith("images/train/18/train-10171-1-img1.png")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "x.json line 1 is not JSON"),
        ("[]", "line 1 has no identifier or no sentence"),
        ('{"identifier": "dev-0-0-0", "sentence": " "}', "line 1 has no identifier or no sentence"),
        ('{"identifier": "dev-0-0", "sentence": "a"}', "identifier is 'dev-0-0'; it must read split-set-pair-sentence"),
        ('{"identifier": "dev-0-0-0", "sentence": "a", "label": "yes"}', "label is 'yes'; it must be True or False"),
        ("", "x.json names no images"),
    ],
)
def test_broken_files_are_named_in_one_line(tmp_path: Path, line: str, message: str) -> None:
    file = put(tmp_path / "x.json", line + "\n")
    with pytest.raises(DataError, match=message) as caught:
        open_nlvr2([Nlvr2Source(statements=str(file), image_root=str(tmp_path))])
    assert "\n" not in str(caught.value)


def test_what_is_missing_or_twice_is_named(tmp_path: Path) -> None:
    train, dev = official(tmp_path)
    with pytest.raises(DataError, match="identifier twice"):
        open_nlvr2([dev, dev])
    with pytest.raises(DataError, match="there is no file"):
        open_nlvr2([Nlvr2Source(statements=str(tmp_path / "none.json"), image_root=".")])
    with pytest.raises(DataError, match=r"2 of 2 images of train.json are missing, .*train-10171-0-img0\.png"):
        open_nlvr2([Nlvr2Source(statements=train.statements, image_root=str(tmp_path))])


def test_labels_may_be_unknown(tmp_path: Path) -> None:
    official(tmp_path)
    hidden = put_jsonl(tmp_path / "hidden.json", [{key: value for key, value in DEV[0].items() if key != "label"}])
    table = open_nlvr2([Nlvr2Source(statements=str(hidden), image_root=str(tmp_path / "images"))])
    assert list(table.statements["label"]) == [-1]


def test_batches_hold_each_image_once(tmp_path: Path) -> None:
    transform = build_transform(TransformConfig(size=16), train=True)
    dataset = Nlvr2Dataset(open_nlvr2(official(tmp_path)), transform, seed=1)
    samples = dataset.__getitems__([Visit(2, 3), Visit(2, 2), Visit(2, 0)])
    batch = Nlvr2Collator(lambda texts: tokenize_captions(TOKENIZER, texts, max_length=20))(samples)
    assert batch.pixel_values.shape == (4, 3, 16, 16) and batch.image_index.tolist() == [0, 1, 4, 5]
    assert batch.image_rows.tolist() == [[2, 3], [2, 3], [0, 1]] and batch.labels.tolist() == [1, 0, 1]
    for row, sample in enumerate(samples):
        for side in (0, 1):
            assert torch.equal(batch.pixel_values[batch.image_rows[row, side]], sample.pixels[side])
    assert torch.equal(dataset[Visit(2, 0)].pixels[1], samples[2].pixels[1])
    assert not torch.equal(dataset[Visit(3, 0)].pixels[1], samples[2].pixels[1])
    assert batch.index.tolist() == [3, 2, 0] and len(batch) == len(batch.to("cpu")) == 3


def test_a_cache_needs_no_pixels(tmp_path: Path) -> None:
    dataset = Nlvr2Dataset(open_nlvr2(official(tmp_path)))
    batch = Nlvr2Collator(lambda texts: tokenize_captions(TOKENIZER, texts, max_length=20))([dataset[1]])
    assert batch.pixel_values is None and batch.image_index.tolist() == [2, 3] and batch.image_rows.tolist() == [[0, 1]]
