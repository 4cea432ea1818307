"""truepair doctor, by the real command, on data in which every fault is known."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.tasks.doctor.faulty import photo, write_faulty
from truepair.cli.main import main


def doctor(tmp_path: Path, *words: str) -> dict[str, Any]:
    """What the command writes as JSON."""
    main(["doctor", *words, "--json", str(tmp_path / "found.json")])
    found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    return write_faulty(tmp_path_factory.mktemp("faulty"))


def write_list(folder: Path, rows: list[dict[str, Any]], name: str = "pairs.jsonl") -> str:
    """A list whose pictures are all there, each of its own colours."""
    for image in {str(row["image"]) for row in rows}:
        if not (folder / image).exists():
            photo(int.from_bytes(image.encode()[:4])).save(folder / image)
    (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(folder / name)


def test_every_fault_is_counted(
    faulty: tuple[Path, dict[str, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, right = faulty
    found = doctor(tmp_path, str(path))
    assert {key: found[key] for key in right} == right
    assert found["captions_unknown"] >= 1 and 0 < found["unknown_tokens"] < 0.1
    assert found["licences"] == {"none stated": found["rows"] - 6, "CC0": 6}
    assert found["scripts"]["CYRILLIC"] == 1 and found["scripts"]["none"] == 1
    assert found["splits"] == {"test": 2, "train": right["rows"] - 4, "val": 2}
    shown = " ".join(capsys.readouterr().out.split())
    assert "picture files are not there" in shown and "pictures are in more than one split" in shown


def test_the_first_case_of_each_finding_is_shown(
    faulty: tuple[Path, dict[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", str(faulty[0])])
    told = capsys.readouterr()
    shown = " ".join(told.out.split())
    assert "such as gone1.png" in shown and "such as empty.png: " in shown and "such as good0.png, copy1.png" in shown
    assert "each case: --page FILE, with pictures, or --json FILE" in " ".join(told.err.split())


def test_all_files_that_cannot_be_used_are_named(faulty: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    examples = doctor(tmp_path, str(faulty[0]))["examples"]
    names = {key: [Path(one["files"][0]).name for one in examples[key]] for key in ("missing", "unreadable")}
    assert names == {"missing": ["gone1.png", "gone2.png"], "unreadable": ["empty.png", "text.png", "broken.jpg"]}
    assert "empty (0 bytes)" in examples["unreadable"][0]["text"]
    copies = [sorted(Path(file).name for file in one["files"]) for one in examples["same_picture_groups"]]
    assert copies == [["copy1.png", "copy2.png", "good0.png"]]


def test_without_opening_pictures_what_needs_them_is_null(faulty: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    path, right = faulty
    found = doctor(tmp_path, str(path), "--no-pictures")
    assert found["unreadable"] is None and found["cmyk"] is None and found["near_leaks"] is None
    assert found["missing"] == 2 and not found["pictures_opened"]
    assert found["pictures"] == right["pictures"] + 2  # copies of one picture are other files
    assert found["leaks"] == 1 and found["same_picture_groups"] == 0


def test_clean_pairs_have_nothing_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_list(tmp_path, [{"image": f"{n}.png", "captions": [f"a picture of {w}"]} for n, w in enumerate("abc")])
    found = doctor(tmp_path, path)
    wrong = {
        key: value for key, value in found.items() if isinstance(value, int) and not isinstance(value, bool) and value
    }
    assert wrong == {"rows": 3, "pictures": 3, "captions": 3}
    assert "nothing is wrong with them" in capsys.readouterr().out


def test_captions_that_are_equal_after_cutting(tmp_path: Path) -> None:
    """Row E of the cases of users: captions that differ only beyond what the model reads."""
    rows = [
        {
            "image": "a.png",
            "captions": [f"a dog runs in the deep white snow of a long winter day {n}" for n in range(64)],
        }
    ]
    path = write_list(tmp_path, rows)
    found = doctor(tmp_path, path, "--max_length", "8")
    assert found["captions_cut"] == found["captions_equal_after_cutting"] == 64
    assert found["captions_equal_without_cutting"] == 0
    found = doctor(tmp_path, path)
    assert found["captions_cut"] == found["captions_equal_after_cutting"] == 0


def test_several_sources_leak_into_each_other(tmp_path: Path) -> None:
    rows = [{"image": f"{n}.png", "captions": [f"a picture of {n}"], "image_id": n} for n in range(6)]
    train, test = write_list(tmp_path, rows[:4], "train.jsonl"), write_list(tmp_path, rows[3:], "test.jsonl")
    found = doctor(tmp_path, train, test)
    assert (found["rows"], found["pictures"], found["leaks"]) == (7, 6, 1)
    assert found["sources"] == [train, test]
    named = doctor(tmp_path, "--data.train", f"[{train}]", "--data.validation", f"[{test}]")
    assert named["splits"] == {"train": 4, "val": 3} and named["leaks"] == 1


def test_ids_that_contradict_are_told_and_the_rest_is_examined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"image": "a.png", "captions": ["a dog"], "image_id": 1, "caption_id": 5},
        {"image": "b.png", "captions": ["a cat"], "image_id": 2, "caption_id": 5},
    ]
    found = doctor(tmp_path, write_list(tmp_path, rows))
    assert found["contradicting_ids"] == 1 and found["rows"] == found["pictures"] == 2
    assert "caption id 5 stands for two captions" in found["examples"]["contradicting_ids"][0]["text"]
    assert "the stated ids contradict each other" in capsys.readouterr().err


def test_image_ids_of_several_pictures_are_counted(tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGB", (20, 20), (number * 50, 90, 0)).save(tmp_path / f"{number}.png")
    ids = [1, 1, 2, 2, 3]
    rows = [{"image": f"{number}.png", "caption": f"thing {number}", "image_id": ids[number]} for number in range(5)]
    found = doctor(tmp_path, write_list(tmp_path, rows))
    assert found["contradicting_ids"] == 2 and found["pictures"] == 3
    assert found["examples"]["contradicting_ids"][0]["files"] == [str(tmp_path / name) for name in ("0.png", "1.png")]


def test_pictures_that_lie_in_a_table_are_examined(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    photo(1).save(tmp_path / "a.png")
    photo(2).save(tmp_path / "b.png")
    data = [(tmp_path / name).read_bytes() for name in ("a.png", "b.png", "a.png")] + [b"no picture"]
    table = {"image": data, "caption": ["a dog", "a cat", "my dog", "a bird"], "image_id": [1, 2, 3, 4]}
    pq.write_table(pa.table(table), tmp_path / "pairs.parquet")
    found = doctor(tmp_path, str(tmp_path / "pairs.parquet"))
    keys = ("rows", "pictures", "same_picture_groups", "missing", "unreadable")
    assert [found[key] for key in keys] == [4, 3, 1, 0, 1]


def test_pictures_of_one_shape_and_other_colours_are_not_nearly_the_same(tmp_path: Path) -> None:
    """The perceptual hash sees no colour."""
    for number, colour in enumerate(("red", "lime", "navy")):
        picture = Image.new("RGB", (64, 64), "white")
        picture.paste(colour, (10, 10, 50, 40))
        picture.save(tmp_path / f"{number}.png")
    path = write_list(tmp_path, [{"image": f"{n}.png", "captions": [f"colour {c}"]} for n, c in enumerate("abc")])
    assert doctor(tmp_path, path)["near_picture_groups"] == 0


def test_what_cannot_be_examined_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, line in (
        (["nothing.csv"], "no such file or folder: nothing.csv"),
        (["--batch", "64"], "give the pairs: truepair doctor pairs.csv"),
        (["sample", "--batch", "1"], "batch is 1; give 2 or more"),
        (["sample", "--model", "clip", "--no-pictures"], "without pictures there is nothing for a model to compare"),
        (["a.csv", "--data.sources", "[b.csv]"], "a.csv and --data.sources both name the pairs"),
    ):
        with pytest.raises(SystemExit):
            main(["doctor", *words])
        assert line in capsys.readouterr().err
