"""What is left out, cut, merged or replaced: said in the same words by every command that reads data, and listed."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.methods.test_chance import WORDS
from truepair.cli.main import main
from truepair.data.images import BadImageError, OpenedImage, opened_image
from truepair.data.table import PairTable
from truepair.models.dual.base import DualEncoder
from truepair.tasks.retrieval import RetrievalTask

UNREADABLE = {"train": [3, 5], "val": [45], "test": [52, 55]}
"""Numbers of the pictures of each split that cannot be read."""

LIMIT = ["--data.max_bad_fraction", "0.3"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """60 pictures with a caption each: 40 train, 10 validate, 10 test; some cannot be read, one line has no caption."""
    lines = []
    for number in range(60):
        split = "train" if number < 40 else "val" if number < 50 else "test"
        Image.new("RGB", (16, 16), (number * 4, 255 - number * 4, number % 7 * 30)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "caption": f"thing {number}", "split": split}))
    for number in (3, 45, 52):
        (tmp_path / f"{number}.png").write_bytes(b"no picture %d" % number)
    for number in (5, 55):
        (tmp_path / f"{number}.png").write_bytes((tmp_path / "1.png").read_bytes()[: 50 - number // 10])
    lines.insert(7, '{"image": "7.png", "caption": "", "split": "train"}')
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    return tmp_path / "pairs.jsonl"


@pytest.fixture(scope="module")
def trained(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on whole data."""
    run = tmp_path_factory.mktemp("trained")
    main(["train", "scratch", str(squares / "pairs.jsonl"), *WORDS, "--loop.epochs", "1", "--run-folder", str(run)])
    return run


def listed(file: Path) -> list[tuple[str, str, int | None]]:
    """What became of which file and row."""
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(list(entry) == ["what", "file", "row", "why"] and entry["why"] for entry in entries)
    return [(entry["what"], Path(entry["file"]).name, entry["row"]) for entry in entries]


def pictures(what: str, *splits: str) -> set[tuple[str, str, int | None]]:
    return {(what, f"{number}.png", number) for split in splits for number in UNREADABLE[split]}


LINE = ("left out", "pairs.jsonl", 8)
SAYS_LINE = "left out: 1 row or part of a row of pairs"


@pytest.mark.parametrize("command", [["train"], ["finetune", "retrieval"]])
def test_a_run_lists_all_and_shows_it_on_its_page(
    command: list[str], pairs: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [*WORDS, *LIMIT, "--data.validation_split", "val", "--loop.epochs", "2", "--run-folder", str(run)]
    start = ["--model.checkpoint", str(trained / "model")] if command[0] == "finetune" else ["--text.max_length", "3"]
    recipe = tmp_path / "own.yaml"
    recipe.write_text(json.dumps({"data": {"sources": [str(pairs)]}, "model": {}}))
    main([*command, str(recipe), *words, *start, "--report"])
    told = " ".join(capsys.readouterr().err.split())
    assert f"{SAYS_LINE}; listed in {run / 'skipped.jsonl'}" in told
    assert "left out: pairs.jsonl line 8: its caption is empty" in told
    assert "left out: 1 of 10 pictures of pairs (val) cannot be read" in told
    assert "left out: 2 of 10 pictures of pairs (test) cannot be read" in told
    assert "replaced: 2 of 40 training pairs of pairs have a picture that cannot be read" in told
    assert "left out: 2 pictures of the page cannot be read" in told
    found = listed(run / "skipped.jsonl")
    assert {one for one in found if one[0] != "cut"} == {
        LINE,
        *pictures("left out", "val", "test"),
        *pictures("replaced", "train"),
    }
    assert len(found) == len(set(found))
    cut = [one for one in found if one[0] == "cut"]
    assert len(cut) == (30 if command == ["train"] else 0) == 30 * ("cut: 30 of 40 captions have more than 3" in told)
    page = (run / "report.html").read_text()
    assert SAYS_LINE in page and "replaced: 2 of 40 training pairs" in page
    figures = json.loads((run / "retrieval.json").read_text())
    assert (figures["images"], figures["unreadable"]) == (8, 2)


def test_of_very_many_captions_some_are_looked_at_and_the_lines_say_so(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truepair.data.caption_check._ALL", 39)
    monkeypatch.setattr("truepair.data.caption_check._LOOKED_AT", 10)
    words = [*WORDS, *LIMIT, "--loop.epochs", "1", "--text.max_length", "3", "--run-folder", str(tmp_path / "run")]
    main(["train", "scratch", str(pairs), *words])
    told = " ".join(capsys.readouterr().err.split())
    found = re.search(r"cut: (\d+) of 10 captions looked at, of 40, have more than 3 tokens", told)
    rows = [row for what, _, row in listed(tmp_path / "run/skipped.jsonl") if what == "cut"]
    assert found is not None and len(rows) == int(found[1]) > 0
    assert all(row is not None and row % 4 == 0 for row in rows)


def test_evaluate_leaves_out_the_same_pictures_for_every_model(
    pairs: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["evaluate", str(trained), "--data", str(pairs), "--max_bad_fraction", "0.3"]
    main([*call, "--output", str(tmp_path / "figures.json")])
    printed = capsys.readouterr()
    told, file = " ".join(printed.err.split()), tmp_path / "figures.skipped.jsonl"
    assert f"left out: 2 of 10 pictures of pairs (test) cannot be read; listed in {file}" in told
    assert f"{SAYS_LINE}; listed in {file}" in told and "2 pictures that cannot be read are left out" in printed.out
    assert {one for one in listed(file) if one[0] != "cut"} == {LINE, *pictures("left out", "test")}
    readable = [
        line
        for line in pairs.read_text().splitlines()
        if json.loads(line)["caption"] and json.loads(line)["image"] not in ("45.png", "52.png", "55.png")
    ]
    pairs.write_text("\n".join(readable))
    main([*call, "--output", str(tmp_path / "again.json")])
    before, after = (json.loads((tmp_path / name).read_text()) for name in ("figures.json", "again.json"))
    assert before["ways"] == after["ways"] and after["unreadable"] == 0


def test_a_line_that_is_no_json_ends_nothing(
    pairs: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs.write_text(pairs.read_text() + '\n{"image": "59.png", "capt')
    call = ["evaluate", str(trained), "--data", str(pairs), "--output", str(tmp_path / "figures.json")]
    main([*call, "--max_bad_fraction", "0.3"])
    told = " ".join(capsys.readouterr().err.split())
    assert "left out: 2 rows or parts of rows of pairs; listed in" in told
    assert "left out: pairs.jsonl line 62: it is not JSON (Unterminated string" in told
    assert ("left out", "pairs.jsonl", 62) in listed(tmp_path / "figures.skipped.jsonl")
    with pytest.raises(SystemExit):
        main([*call, "--max_bad_fraction", "0"])
    assert (
        "2 of 62 rows of" in (told := " ".join(capsys.readouterr().err.split())) and "over max_skipped (0.0%)" in told
    )


def test_evaluate_decodes_each_picture_once(
    pairs: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    @contextmanager
    def opened(stored: dict[str, str], *options: Any) -> Iterator[OpenedImage]:
        read.append(Path(stored["path"]).name)
        with opened_image(stored, *options) as image:
            yield image

    for module in ("truepair.data.images", "truepair.data.pixels"):
        monkeypatch.setattr(f"{module}.opened_image", opened)
    main(["evaluate", str(trained), "--data", str(pairs), "--max_bad_fraction", "0.3", "--validation_split", ""])
    assert sorted(read) == [f"{number}.png" for number in range(50, 60)]


def test_evaluate_finds_missing_pictures_before_it_reads_any(
    pairs: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (56, 57):
        (pairs.parent / f"{number}.png").unlink()
    for module in ("truepair.data.images", "truepair.data.pixels"):
        monkeypatch.setattr(f"{module}.opened_image", None)
    with pytest.raises(SystemExit):
        main(["evaluate", str(trained), "--data", str(pairs), "--validation_split", ""])
    told = " ".join(capsys.readouterr().err.split())
    assert "2 of 10 pictures of pairs (test) cannot be read, over the limit of 5.0%" in told and "56.png" in told


def test_evaluate_says_where_a_list_would_be_and_minds_its_limit(
    pairs: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", str(trained), "--data", str(pairs)])
    told = " ".join(capsys.readouterr().err.split())
    assert f"{SAYS_LINE}; --output FILE has them listed beside it" in told
    assert "2 of 10 pictures of pairs (test) cannot be read, over the limit of 5.0%, such as " in told
    assert "raise data.max_bad_fraction (of truepair evaluate: max_bad_fraction)" in told


def test_embed_lists_beside_its_vectors(
    pairs: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["embed", str(trained), str(pairs), "--output", str(tmp_path / "v.parquet"), "--workers", "0"])
    told = " ".join(capsys.readouterr().err.split())
    assert SAYS_LINE in told and "left out: 5 of 60 pictures of pairs (test+train+val) cannot be read" in told
    found = {one for one in listed(tmp_path / "v.skipped.jsonl") if one[0] != "cut"}
    assert found == {LINE, *pictures("left out", "train", "val", "test")}


def test_half_of_a_small_training_set_is_too_much(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(0, 40, 2):
        (pairs.parent / f"{number}.png").write_bytes(b"no picture")
    words = ["train", "scratch", str(pairs), *WORDS, "--data.validation_split", "", "--data.test_split", ""]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--loop.epochs", "3", "--run-folder", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert "samples could not be read, over the limit of 5.0%" in capsys.readouterr().err


def test_a_page_leaves_out_a_picture_that_broke_after_the_run(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(squares, tmp_path / "squares")
    load = PairTable.image

    def broken(table: PairTable, index: int) -> Image.Image:
        if index % 2:
            raise BadImageError(f"image {index} is damaged; fetch it again")
        return load(table, index)

    monkeypatch.setattr(PairTable, "image", broken)
    words = ["train", "scratch", str(tmp_path / "squares/pairs.jsonl"), *WORDS, "--loop.epochs", "1", "--report"]
    main([*words, "--run-folder", str(tmp_path / "run")])
    told = " ".join(capsys.readouterr().err.split())
    assert "pictures of the page cannot be read; listed in" in told and (tmp_path / "run/report.html").is_file()


def test_a_missing_picture_is_listed(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "20.png").unlink()
    words = ["train", "scratch", str(pairs), *WORDS, *LIMIT, "--loop.epochs", "1"]
    main([*words, "--run-folder", str(tmp_path / "run")])
    assert "20.png" in capsys.readouterr().err
    assert "20.png" in {name for _, name, _ in listed(tmp_path / "run/skipped.jsonl")}


def test_a_picture_that_breaks_within_a_run_is_left_out_from_then_on(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = RetrievalTask.figures

    def figures(self: RetrievalTask, model: DualEncoder) -> dict[str, float]:
        found = measure(self, model)
        for number in (44, 51):  # of validation and test
            (pairs.parent / f"{number}.png").write_bytes(b"")
        return found

    monkeypatch.setattr(RetrievalTask, "figures", figures)
    run = tmp_path / "run"
    words = [*WORDS, *LIMIT, "--data.validation_split", "val", "--loop.epochs", "2", "--run-folder", str(run)]
    main(["train", "scratch", str(pairs), *words])
    assert "44.png" in " ".join(capsys.readouterr().err.split())
    assert {("left out", "44.png", 44), ("left out", "51.png", 51)} <= set(listed(run / "skipped.jsonl"))
    figures_of_test = json.loads((run / "retrieval.json").read_text())
    assert (figures_of_test["images"], figures_of_test["unreadable"]) == (7, 3)
