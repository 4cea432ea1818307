"""Captioning on squares, from the command to the files it leaves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tasks.task_sets import COLOURS, picture, write_checkpoint
from truepair.cli.main import main
from truepair.errors import ConfigError
from truepair.evaluation.captioning import RULES, CaptionFigures
from truepair.tasks.captioning import CaptionRecipe, CaptionResult
from truepair.tasks.start import StartConfig

FAST: dict[str, Any] = {
    "optimizer": {"learning_rate": 0.003, "warmup_steps": 4},
    "loop": {"epochs": 12, "batch_size": 8, "workers": 0, "log_every": 2, "cpu": True, "evaluate_every": 6},
    "max_caption_length": 8,
}


@pytest.fixture(autouse=True)
def scorers(request: pytest.FixtureRequest) -> None:
    if "package" not in request.node.name:
        pytest.importorskip("pycocoevalcap")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("start") / "model")


def write_recipe(folder: Path) -> Path:
    """Squares of three colours in a list with one caption a line, two of each square."""
    lines = []
    for colour in COLOURS:
        for shade in range(6):
            name, split = f"{colour}-{shade}.png", {4: "val", 5: "test"}.get(shade, "train")
            picture(colour, shade).save(folder / name)
            for caption in (f"it is {colour}", f"the {colour} square"):
                lines.append(json.dumps({"image": name, "caption": caption, "split": split}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    path = folder / "squares.yaml"
    path.write_text(json.dumps({**FAST, "data": {"sources": [str(folder / "pairs.jsonl")]}}))
    return path


def finetune(recipe: Path, run: Path, checkpoint: Path, *options: str, command: str = "finetune") -> None:
    words = ["--run-folder", str(run), "--model.checkpoint", str(checkpoint), *options]
    main([command, "captioning", str(recipe), *words])


def test_captions_are_learned_written_and_measured(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truepair.tasks.captioning.java_is_there", lambda: False)
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    finetune(recipe, run, checkpoint, "--loop.best_figure", "cider_d", "--list_vocabulary", "true", "--report")
    told = capsys.readouterr()
    said = " ".join(told.err.split())
    assert "test: 6 rows are 3 pictures; each counts once, with all its captions" in said
    assert "no Java here: captions are split into words by the rules of PTBTokenizer in Python, and METEOR is" in said
    assert "CIDEr-D" in told.out and "nearest picture" in told.out and "most frequent" in told.out
    result = json.loads((run / "captioning.json").read_text())
    assert (result["pictures"], result["references"]) == (3, 6)
    scores = {who: one["figures"] for who, one in result["scores"].items()}
    assert list(scores) == ["model", "nearest picture", "most frequent"]
    assert scores["model"]["cider_d"] > scores["most frequent"]["cider_d"] and "meteor" not in scores["model"]
    assert {one["words"] for one in result["scores"].values()} == {RULES}
    written = json.loads((run / "captions.json").read_text())
    assert len(written) == 3 and all(set(entry) == {"image_id", "caption"} for entry in written)
    assert {colour for entry in written for colour in COLOURS if colour in entry["caption"]} == set(COLOURS)
    page = (run / "report.html").read_text()
    assert "Captions: 3 pictures, 6 references" in page and "truepair finetune captioning" in page

    assert f"captions in {run / 'captions.json'}, as COCO's evaluation takes them, and beside their pictures in" in said
    shown = [json.loads(line) for line in (run / "captions.jsonl").read_text().splitlines()]
    assert {(line["image_id"], line["caption"]) for line in shown} == {tuple(entry.values()) for entry in written}
    assert {Path(line["image"]).name for line in shown} == {f"{colour}-5.png" for colour in COLOURS}
    assert all(len(line["references"]) == 2 for line in shown)

    before = (run / "captions.json").read_text()
    (run / "captions.json").unlink()
    main(["evaluate", "captioning", str(run / "model")])
    assert (run / "captions.json").read_text() == before, "the model in the folder is the one that was measured"
    assert json.loads((run / "captioning.json").read_text()) == result
    main(["evaluate", "captioning", str(run), "--data.test_pictures", "1", "--beams", "1"])
    assert json.loads((run / "captioning.json").read_text())["pictures"] == 1
    assert "SPICE is left out: " in said and "SPICE" not in told.out
    monkeypatch.setattr("truepair.tasks.captioning.missing_of_spice", lambda: "")
    monkeypatch.setattr("truepair.tasks.captioning.score_spice", lambda captions, _: dict.fromkeys(captions, 0.25))
    main(["evaluate", "captioning", str(run), "--min_caption_length", "5"])
    assert "SPICE" in capsys.readouterr().out
    result = json.loads((run / "captioning.json").read_text())
    assert result["scores"]["model"]["figures"]["spice"] == 0.25
    assert min(len(entry["caption"].split()) for entry in json.loads((run / "captions.json").read_text())) > 3


def test_a_stopped_run_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    options = ["--loop.epochs", "2", "--data.test_split", "", "--data.validation_split", ""]
    finetune(recipe, run, checkpoint, *options, command="train")
    assert not (run / "captions.json").exists(), "there are no pictures to caption"
    final = load_file(run / "model" / "model.safetensors")
    shutil.rmtree(run / "model")
    shutil.rmtree(sorted((run / "checkpoints").glob("step-*"))[-1])
    finetune(recipe, run, checkpoint, *options)
    again = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(again[name], final[name]) for name in final), "a resumed run is the uninterrupted one"


def test_states_of_a_cache_and_a_picture_that_cannot_be_read(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    (tmp_path / "red-5.png").write_bytes(b"no picture")
    frozen = ["--model.freeze_image", "true", "--model.cache_images", "true", "--model.freeze_text", "true"]
    frozen += ["--model.cache_folder", str(tmp_path / "cache"), "--model.options", "{image_feature: true}"]
    finetune(recipe, run, checkpoint, *frozen, "--loop.epochs", "1")
    assert "data.test: left out: 1 of 3 captions are about images that cannot be read" in " ".join(
        capsys.readouterr().err.split()
    )
    assert len(json.loads((run / "captions.json").read_text())) == 2
    start, left = (load_file(folder / "model.safetensors") for folder in (checkpoint, run / "model"))
    moved = {name.split(".")[0] for name in left if name in start and not torch.equal(left[name], start[name])}
    assert moved == {"fusion_encoder"} and torch.equal(
        left["image_projection.weight"], start["image_projection.weight"]
    )


def test_pictures_without_any_to_train_on_are_captioned(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    finetune(recipe, run, checkpoint, "--loop.epochs", "1", "--data.test_split", "", "--data.validation_split", "")
    picture("red", 7).save(tmp_path / "new.png")
    (tmp_path / "new.csv").write_text("image,caption\nnew.png,it is red\n")
    capsys.readouterr()
    main(["evaluate", "captioning", str(run), "--data.sources", "null", "--data.test", str(tmp_path / "new.csv")])
    told = capsys.readouterr()
    said = " ".join(told.err.split())
    assert "no training pictures are named: the baselines, which copy their captions, are left out" in said
    assert "of a single picture it is 0" in said and "validation" not in said and "most frequent" not in told.out
    (tmp_path / "b.csv").write_text("image,caption\nred-5.png,the red square\n")
    files = json.dumps([str(tmp_path / name) for name in ("new.csv", "b.csv")])
    main(["evaluate", "captioning", str(run), "--data.test", files])
    said = " ".join(capsys.readouterr().err.split())
    assert "its ids are hashed with the names of the sources, of which there are several" in said


def test_what_does_not_caption_is_told_what_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, albef = write_recipe(tmp_path), write_checkpoint(tmp_path / "albef")

    def refused(*words: str) -> str:
        with pytest.raises(SystemExit):
            main([*words])
        return " ".join(capsys.readouterr().err.split())

    said = "and what is needed here is a model that 'truepair train captioning' wrote; give the 'model' folder"
    assert f"{albef} is a truepair-albef, {said}" in refused("evaluate", "captioning", str(albef), str(recipe))
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "config.json").write_text('{"model_type": "clip"}')
    assert f"{clip} is a clip, {said}" in refused("evaluate", "captioning", str(clip), str(recipe))
    start = ["train", "captioning", str(recipe), "--run-folder", str(tmp_path / "run"), "--model.checkpoint", str(clip)]
    assert f"{clip} is a clip, and what is needed here is a model that 'truepair train' wrote" in refused(*start)


def test_mistakes_are_one_line(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)

    def refused(*options: str) -> str:
        with pytest.raises(SystemExit):
            finetune(recipe, tmp_path / "run", checkpoint, *options)
        return " ".join(capsys.readouterr().err.split())

    assert "and captioning reads from left to right; leave it out" in refused(
        "--model.freeze_text", "true", "--model.cache_texts", "true"
    )
    assert "max_caption_length is 20, but the model reads 20" in refused("--max_caption_length", "20")
    assert "captioning has image_feature in its place" in refused("--model.options", "{token_products: true}")


def test_without_the_package_nothing_is_trained(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truepair.evaluation.captioning.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        finetune(write_recipe(tmp_path), tmp_path / "run", checkpoint)
    assert "pip install 'truepair[captioning]'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_states_that_know_the_whole_caption_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.cache_texts keeps states that have seen the whole caption"):
        CaptionRecipe(model=StartConfig(freeze_text=True, cache_texts=True))


def test_figures_are_those_that_papers_state() -> None:
    usual = CaptionFigures({"cider_d": 0.05, "meteor": 0.1})
    scores = {"model": CaptionFigures({"cider_d": 1.204, "meteor": 0.25}), "most frequent": usual}
    table = CaptionResult(1234, 5000, scores).table()
    assert table.title == "Captions: 1,234 pictures, 5,000 references"
    assert table.rows == [["CIDEr-D", "120.4", "5.0"], ["METEOR", "25.0", "10.0"]]
