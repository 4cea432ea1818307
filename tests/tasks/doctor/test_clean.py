"""What ``truepair doctor --fix`` writes: a list that opens as it is, and in which nothing is found any more."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.tasks.doctor.faulty import photo, write_faulty
from tests.tasks.doctor.test_doctor import doctor, write_list
from truepair.cli.main import main
from truepair.data import open_pairs


@pytest.mark.parametrize("place", [".", "elsewhere/lists"])
def test_the_clean_list_opens_and_is_clean(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside its pictures, and in another folder."""
    path, right = write_faulty(tmp_path / "data")
    out = tmp_path / "data" / place / "clean.jsonl" if place == "." else tmp_path / place / "clean.jsonl"
    doctor(tmp_path, str(path), "--fix", str(out))
    said = capsys.readouterr().err
    table = open_pairs(out)
    assert all(table.image(row) is not None for row in range(len(table)))
    found = doctor(tmp_path, str(out))
    gone = ("missing", "unreadable", "leaks", "same_picture_groups", "captions_generic", "captions_mojibake")
    gone += ("captions_control", "captions_repeated_within", "left_out", "contradicting_ids")
    assert [found[key] for key in gone] == [0] * len(gone)
    assert found["pictures"] == right["pictures"] - 2 - 3
    assert found["near_picture_groups"] == 1  # nearly the same is not the same: people decide
    assert {split: count for split, count in found["splits"].items() if split != "train"} == {"test": 2, "val": 1}
    changes = [json.loads(line) for line in (out.parent / "clean.left_out.jsonl").read_text().splitlines()]
    assert Counter(change["why"] for change in changes) == {
        "row left out: its picture is missing": 2,
        "row left out: its picture cannot be read": 3,
        "row left out: its picture is in another split, too": 3,
        "caption left out: it says nothing": 3,
        "caption left out: its picture has it already": 1,
        "caption mended": 2,
    }
    assert "2 x row left out: its picture is missing" in said and "clean.left_out.jsonl" in said
    assert ("leads to the pictures in" in said) == (place != ".")
    texts = [text for captions in table.values("captions") for text in captions]
    assert "a café in the sun" in texts and "a bell rings" in texts and "IMG_1234" not in texts


def test_a_list_that_is_clean_stays_as_it_is(squares: Path, tmp_path: Path) -> None:
    source = squares / "pairs.jsonl"
    doctor(tmp_path, str(source), "--fix", str(tmp_path / "clean.jsonl"))
    before, after = open_pairs(source), open_pairs(tmp_path / "clean.jsonl")
    for column in ("image_id", "captions", "caption_ids", "split", "group", "names"):
        assert before.values(column) == after.values(column)
    assert [before.image(row).tobytes() for row in range(4)] == [after.image(row).tobytes() for row in range(4)]
    assert (tmp_path / "clean.left_out.jsonl").read_text() == ""


def test_copies_of_a_picture_get_its_file_and_id(tmp_path: Path) -> None:
    photo(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    rows = [{"image": f"{n}.png", "captions": [f"caption {n}"], "image_id": i} for i, n in enumerate("ab", 7)]
    doctor(tmp_path, write_list(tmp_path, rows), "--fix", str(tmp_path / "clean.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text().splitlines()]
    assert [(line["image"], line["image_id"], line["captions"]) for line in lines] == [
        ("a.png", 7, ["caption a"]),
        ("a.png", 7, ["caption b"]),
    ]


def test_pictures_of_a_table_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    photo(1).save(tmp_path / "a.png")
    data = [(tmp_path / "a.png").read_bytes(), b"no picture"]
    columns = {"image": data, "caption": ["a dog", "a cat"], "licence": ["CC0", "CC0"]}
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    doctor(tmp_path, str(tmp_path / "pairs.parquet"), "--fix", str(tmp_path / "new" / "clean.jsonl"))
    table = open_pairs(tmp_path / "new" / "clean.jsonl")
    assert len(table) == 1 and table.image(0).tobytes() == photo(1).tobytes() and table.values("licence") == ["CC0"]
    assert "were written into" in capsys.readouterr().err


def test_the_list_must_be_a_new_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_list(tmp_path, [{"image": "a.png", "captions": ["a dog"]}])
    for out, line in ((path, "would replace what is examined"), ("clean.csv", "give --fix clean.jsonl")):
        with pytest.raises(SystemExit):
            main(["doctor", path, "--fix", out])
        assert line in capsys.readouterr().err
