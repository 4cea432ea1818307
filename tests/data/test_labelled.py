"""Labelled images from every kind of source, their class names and prompts."""

import json
from pathlib import Path

import datasets
import pytest

from tests.data.makers import COLOURS, encoded, picture, put, put_jsonl
from truepair.data.labelled import TEMPLATES, LabelledConfig, class_names, open_labelled, read_templates
from truepair.data.left_out import LeftOut
from truepair.data.source import SourceConfig
from truepair.errors import ConfigError, DataError

SILENT = LeftOut(lambda _: None)


def folder_of_classes(root: Path, count: int = 3) -> Path:
    for colour in COLOURS:
        for number in range(count):
            put(root / f"{colour}_thing" / f"{number}.png", picture(colour))
    return root


def test_a_folder_of_classes(tmp_path: Path) -> None:
    images = open_labelled(LabelledConfig(data=str(folder_of_classes(tmp_path))), SILENT)
    assert images.names == ("blue thing", "green thing", "red thing", "white thing")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert images.table.image(3).getpixel((0, 0)) == COLOURS["green"]
    assert images.split == ""
    assert images.prompts(["a {}.", "{}"])[:3] == ["a blue thing.", "blue thing", "a green thing."]


@pytest.mark.parametrize("header", ["image,label", "file_name,class"])
def test_a_csv_with_a_label_column(tmp_path: Path, header: str) -> None:
    for colour in ("red", "blue"):
        put(tmp_path / "images" / f"{colour}.png", picture(colour))
    put(tmp_path / "labels.csv", f"{header}\nred.png,10\nblue.png,9\n")
    images = open_labelled(LabelledConfig(data=str(tmp_path / "labels.csv")), SILENT)
    assert images.names == ("9", "10")  # labels that are numbers, in their order
    assert images.labels.tolist() == [1, 0]


def test_numbers_as_labels_of_json_lines(tmp_path: Path) -> None:
    put(tmp_path / "a.png", picture())
    put_jsonl(tmp_path / "all.jsonl", [{"image": "a.png", "label": label} for label in (1, 0)])
    put(tmp_path / "names.txt", "cat\ndog\n")
    config = LabelledConfig(data=str(tmp_path / "all.jsonl"), classes=str(tmp_path / "names.txt"))
    images = open_labelled(config, SILENT)
    assert [images.names[label] for label in images.labels] == ["dog", "cat"]


def test_a_data_set_of_the_datasets_library_has_its_own_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine": datasets.ClassLabel(names=["tulip", "rose"]),
            "caption": datasets.Value("string"),
        }
    )
    cells = [{"bytes": encoded(picture(colour)), "path": None} for colour in ("red", "blue", "white")]
    rows = {"img": cells, "fine": [1, 0, -1], "caption": ["a", "b", "c"]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    lines: list[str] = []
    images = open_labelled(LabelledConfig(data=str(tmp_path / "saved")), LeftOut(lines.append))
    assert [images.names[label] for label in images.labels] == ["rose", "tulip"]
    assert images.table.image(0).getpixel((0, 0)) == COLOURS["red"]
    assert lines[1:] == [f"left out: {tmp_path / 'saved'}: 1 images have no label"]


def test_the_split_is_the_one_that_is_named_or_the_usual_one(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        folder_of_classes(tmp_path / split, count={"train": 1, "val": 2, "test": 3}[split])
    sizes = {
        split: len(open_labelled(LabelledConfig(data=str(tmp_path), split=split), SILENT).labels)
        for split in ("", "train", "test")
    }
    assert sizes == {"": 8, "train": 4, "test": 12}
    assert open_labelled(LabelledConfig(data=str(tmp_path)), SILENT).split == "val"
    with pytest.raises(DataError, match=r"has no split 'tset'; it has test, train, val"):
        open_labelled(LabelledConfig(data=str(tmp_path), split="tset"), SILENT)


def test_at_most_so_many_images_of_a_class_always_the_same(tmp_path: Path) -> None:
    config = LabelledConfig(data=str(folder_of_classes(tmp_path, count=5)), images_per_class=2)
    first, again = open_labelled(config, SILENT), open_labelled(config, SILENT)
    assert first.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert first.table.image_ids.tolist() == again.table.image_ids.tolist()
    whole = open_labelled(LabelledConfig(data=str(tmp_path)), SILENT)
    assert set(first.table.image_ids.tolist()) < set(whole.table.image_ids.tolist())


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("words.txt", "n02 fire engine\nn01 polar bear\nn03 unused\n"),
        ("lines.txt", "polar bear\nfire engine\n"),
        ("map.json", json.dumps({"n01": "polar bear", "n02": "fire engine"})),
        ("list.json", json.dumps(["polar bear", "fire engine"])),
        ("index.json", json.dumps({"0": ["n01", "polar bear"], "1": ["n02", "fire engine"]})),
    ],
)
def test_class_names_from_a_file(tmp_path: Path, file: str, content: str) -> None:
    assert class_names(["n01", "n02"], str(put(tmp_path / file, content))) == ["polar bear", "fire engine"]


def test_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    short = put(tmp_path / "names.txt", "polar bear\n")
    with pytest.raises(ConfigError, match=r"names 1 classes and not n01, one of 2; give a line LABEL NAME"):
        class_names(["n01", "n02"], str(short))
    with pytest.raises(ConfigError, match=r"cannot be read .*; give a text or JSON file"):
        class_names(["n01", "n02"], str(put(tmp_path / "broken.json", "{")))


def test_names_that_are_no_names_are_refused(tmp_path: Path) -> None:
    for content in ("3", '"ab"', "[1, 2]", "{}"):
        with pytest.raises(ConfigError, match=r"names [0-2] classes and not n01, one of 2"):
            class_names(["n01", "n02"], str(put(tmp_path / "odd.json", content)))
    (tmp_path / "latin.txt").write_bytes(b"a \xe9 of {}")
    with pytest.raises(ConfigError, match=r"latin\.txt cannot be read .*; give a text file in UTF-8"):
        read_templates(str(tmp_path / "latin.txt"))


def test_names_of_several_classes_are_said(tmp_path: Path) -> None:
    for folder in ("n01", "n02", "n03"):
        put(tmp_path / "set" / folder / "a.png", picture())
    names = put(tmp_path / "names.txt", "crane\ncrane\nbus\n")
    lines: list[str] = []
    open_labelled(LabelledConfig(data=str(tmp_path / "set"), classes=str(names)), LeftOut(lines.append))
    assert lines == ["1 names stand for several classes, which cannot be told apart: crane"]


def test_templates(tmp_path: Path) -> None:
    assert read_templates("photo") == ("a photo of a {}.",)
    assert len(read_templates("clip7")) == 7
    assert all(template.count("{}") == 1 for templates in TEMPLATES.values() for template in templates)
    own = put(tmp_path / "own.txt", "a drawing of a {}.\n\n{}\n")
    assert read_templates(str(own)) == ("a drawing of a {}.", "{}")
    with pytest.raises(
        ConfigError, match=r"there are no templates 'foto' \(did you mean 'photo'\?\); give photo, clip7, or"
    ):
        read_templates("foto")
    for wrong in ("a photo", "{} and {}", "{0.__class__}", ""):
        with pytest.raises(ConfigError, match=r"is no prompt; write a line such as 'a photo of a \{\}\.'"):
            read_templates(str(put(tmp_path / "wrong.txt", wrong)))


def test_what_cannot_be_classified_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "one" / "bus" / "a.png", picture())
    with pytest.raises(DataError, match=r"has one class, bus; give a folder with a folder for each class"):
        open_labelled(LabelledConfig(data=str(tmp_path / "one")), SILENT)
    put_jsonl(tmp_path / "two.jsonl", [{"image": "one/bus/a.png", "label": ["bus", "car"]}])
    with pytest.raises(DataError, match=r"row 0 of .* has the labels bus, car; give each image one class"):
        open_labelled(LabelledConfig(data=SourceConfig(source=str(tmp_path / "two.jsonl"))), SILENT)
    with pytest.raises(ConfigError, match=r"^batch_size is 0; give 1 or more"):
        LabelledConfig(data="somewhere", batch_size=0)
