"""What captioning reads of pairs: one picture in several rows is one picture, and ids stay as they are stated."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from truepair.data.tasks.captioning import (
    CaptionCollator,
    CaptionDataConfig,
    CaptionDataset,
    CaptionTable,
    part_of_pictures,
)
from truepair.data.transforms import TransformConfig, build_transform
from truepair.errors import ConfigError, DataError


def write_flat(folder: Path) -> Path:
    """A list with one caption a line: two pictures with two captions each, one of them a copy under another name."""
    for name, colour in (("a", "red"), ("b", "blue"), ("copy", "blue")):
        Image.new("RGB", (16, 16), colour).save(folder / f"{name}.png")
    rows = [("a", "red"), ("b", "blue"), ("a", "a red square"), ("copy", "a blue square")]
    lines = [json.dumps({"image": f"{name}.png", "caption": caption, "split": "train"}) for name, caption in rows]
    (folder / "flat.jsonl").write_text("\n".join(lines))
    return folder / "flat.jsonl"


def write_coco(folder: Path, first: int) -> Path:
    """A file of COCO captions: two pictures, the second with two references."""
    folder.mkdir()
    for number in (first, first + 1):
        Image.new("RGB", (16, 16), (number % 256, 40, 90)).save(folder / f"{number}.png")
    annotations = [(first, "one"), (first + 1, "two"), (first + 1, "second")]
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in (first, first + 1)],
        "annotations": [{"id": n, "image_id": image, "caption": text} for n, (image, text) in enumerate(annotations)],
    }
    (folder / "captions.json").write_text(json.dumps(content))
    return folder / "captions.json"


def test_rows_of_one_picture_are_its_references(tmp_path: Path) -> None:
    tables = CaptionDataConfig(sources=[str(write_flat(tmp_path))]).open()
    pictures = tables.train.as_pictures()
    shown = CaptionTable.of(pictures, training=False)
    assert [sorted(row["captions"]) for row in shown.rows] == [["a red square", "red"], ["a blue square", "blue"]]
    written = CaptionTable.of(pictures, training=True)
    assert [(row["image"], *row["captions"]) for row in written.rows] == [
        (0, "red"),
        (0, "a red square"),
        (1, "blue"),
        (1, "a blue square"),
    ]
    assert [row["image"] for row in written.without([0]).rows] == [1, 1] and written.without([0]).unreadable == {0}


def test_no_reference_reaches_a_picture_that_is_to_be_captioned(tmp_path: Path) -> None:
    pictures = CaptionDataConfig(sources=[str(write_flat(tmp_path))]).open().train.as_pictures()
    transform = build_transform(TransformConfig(size=16, normalisation="none"), train=False)
    collate = CaptionCollator(lambda texts: (torch.zeros(len(texts), 2).long(), torch.ones(len(texts), 2).long()))
    shown = CaptionDataset(CaptionTable.of(pictures, training=False), transform)
    assert collate([shown[0], shown[1]]).texts == ["", ""]
    written = CaptionDataset(CaptionTable.of(pictures, training=True), transform)
    batch = collate(written.__getitems__([3, 0, 2]))
    assert batch.texts == ["a blue square", "red", "blue"] and len(batch) == 3
    assert batch.image_index.tolist() == [0, 1] and batch.image_rows.tolist() == [1, 0, 1]
    assert batch.pixel_values is not None and batch.pixel_values.shape == (2, 3, 16, 16)


def test_ids_of_a_test_file_are_its_own(tmp_path: Path) -> None:
    train, held, test = (write_coco(tmp_path / name, first) for name, first in (("a", 10), ("b", 20), ("c", 30)))
    tables = CaptionDataConfig(train=[str(train)], validation=[str(held)], test=[str(test)]).open()
    assert tables.test is not None and tables.test.image_ids.tolist() == [30, 31]
    assert tables.validation is not None and tables.validation.image_ids.tolist() == [20, 21]
    assert not tables.lacking and len(tables.train) == 2


def test_a_field_that_names_a_split_is_named_itself(tmp_path: Path) -> None:
    train, test = (write_coco(tmp_path / name, first) for name, first in (("train2014", 10), ("val2014", 30)))
    notes = CaptionDataConfig(train=[str(train)], test=[str(test)]).open().notes
    assert any(
        note.startswith("data.test takes all 2 pairs of captions, whatever their splits: val (2)") for note in notes
    )
    with pytest.raises(DataError, match=r"data\.test: no such file or folder: nothing\.json"):
        CaptionDataConfig(train=[str(train)], test=["nothing.json"]).open()


def test_pictures_to_measure_by_need_none_to_train_on(tmp_path: Path) -> None:
    file = str(write_coco(tmp_path / "test2014", 10))
    for config in (CaptionDataConfig(test=[file]), CaptionDataConfig(sources=[file])):
        tables = config.open(training=False)
        assert tables.test is not None and tables.test.image_ids.tolist() == [10, 11] and not len(tables.train)
        assert not len(CaptionTable.of(tables.train, training=True))
    with pytest.raises(DataError, match="has no split 'train'"):
        CaptionDataConfig(sources=[file]).open()


def test_pictures_on_both_sides_are_said(tmp_path: Path) -> None:
    file = str(write_coco(tmp_path / "a", 10))
    notes = CaptionDataConfig(train=[file], test=[file], validation_split="").open().notes
    assert "2 test pairs are of pictures that are trained on, which flatters the figures" in notes


def test_a_part_of_the_pictures(tmp_path: Path) -> None:
    pictures = CaptionDataConfig(sources=[str(write_flat(tmp_path))]).open().train.as_pictures()
    assert len(part_of_pictures(pictures, 1)) == 1 and part_of_pictures(pictures, 0) is pictures
    assert part_of_pictures(pictures, 5) is pictures


def test_two_ways_to_give_test_pictures_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match=r"data\.test and data\.test_share both give test pictures; give one of them"):
        CaptionDataConfig(sources=["a"], test=["b"], test_share=0.1)
