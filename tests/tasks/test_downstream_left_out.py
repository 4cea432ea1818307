"""Tasks leave out what is about images that cannot be read: said, listed, the same in every epoch and model."""

import json
from pathlib import Path

import pytest

from tests.tasks.task_sets import write_checkpoint
from tests.tasks.test_downstream import finetune, nlvr2_recipe, vqa_recipe
from truepair.cli.main import main

RECIPES = {"vqa": vqa_recipe, "nlvr2": nlvr2_recipe}
HELD_OUT = {"vqa": "vqa/val2014/3.png", "nlvr2": "nlvr2/dev/dev-2-0-img1.png"}
TRAINED = {"vqa": "vqa/train2014/5.png", "nlvr2": "nlvr2/train/train-2-0-img1.png"}
LOST = {"vqa": "2 of 6 questions", "nlvr2": "3 of 27 statements"}
ANSWERS = {"vqa": "vqa_results.json", "nlvr2": "nlvr2_results.csv"}
CACHED = ["--model.freeze_image", "true", "--model.cache_images", "true"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("start") / "model")


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("task", ["vqa", "nlvr2"])
def test_a_task_leaves_out_what_is_about_an_unreadable_image(
    task: str, cached: bool, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = RECIPES[task](tmp_path), tmp_path / "run"
    (tmp_path / HELD_OUT[task]).write_bytes(b"no picture")
    (tmp_path / TRAINED[task]).write_bytes(b"nor is this")
    more = [*CACHED, "--model.cache_folder", str(tmp_path / "cache")] if cached else []
    finetune(task, recipe, run, checkpoint, "--loop.epochs", "2", "--loop.evaluate_every", "1", "--report", *more)
    told = " ".join(capsys.readouterr().err.split())
    assert f"data.validation: left out: {LOST[task]} are about images that cannot be read" in told
    assert f"data.test: left out: {LOST[task]} are about images" in told and "data.train: left out: " in told
    listed = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
    assert {entry["what"] for entry in listed} == {"left out"}
    assert {Path(entry["file"]).name for entry in listed} == {Path(HELD_OUT[task]).name, Path(TRAINED[task]).name}
    before = (run / ANSWERS[task]).read_text() if (run / ANSWERS[task]).exists() else None
    main(["evaluate", task, str(run / "model")])
    assert f"data.test: left out: {LOST[task]}" in " ".join(capsys.readouterr().err.split())
    assert before == ((run / ANSWERS[task]).read_text() if before is not None else None)
    main(["evaluate", task, str(run), "--output", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {f"{task}.json", "skipped.jsonl"}


def test_a_task_of_which_most_cannot_be_read_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = vqa_recipe(tmp_path)
    for number in (3, 7):
        (tmp_path / f"vqa/val2014/{number}.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as stopped:
        finetune("vqa", recipe, tmp_path / "run", checkpoint, "--loop.epochs", "1")
    assert stopped.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert (
        "data.validation: 4 of 6 questions are about images that cannot be read; repair them; the first: image" in told
    )
