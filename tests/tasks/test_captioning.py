"""Captioning on squares, from the command to the files it leaves."""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
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
    assert "data.test: left out: 1 of 3 pictures cannot be read" in " ".join(capsys.readouterr().err.split())
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


@pytest.fixture(scope="module")
def captioner(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without test pictures, beside its squares."""
    folder = tmp_path_factory.mktemp("captioner")
    options = ["--loop.epochs", "1", "--data.test_split", "", "--data.validation_split", ""]
    finetune(write_recipe(folder), folder / "run", checkpoint, *options)
    return folder / "run"


def _new_pictures(folder: Path) -> list[str]:
    """Three squares that no list names; their paths below the folder, with one of the endings that cameras write."""
    names = ["photos/red-8.png", "photos/green-8.PNG", "photos/blue-8.png"]
    (folder / "photos").mkdir()
    for colour, name in zip(COLOURS, names, strict=True):
        picture(colour, 8).save(folder / name)
    return names


def _put_pictures(kind: str, folder: Path) -> Path:
    """The new squares without captions, as a source of some kind."""
    names = _new_pictures(folder)
    if kind == "folder":
        return folder / "photos"
    if kind in ("image_info", "instances"):
        images = [{"id": 70 + number, "file_name": Path(name).name} for number, name in enumerate(names)]
        boxes = [{"id": 1, "image_id": 70, "bbox": [0, 0, 4, 4], "category_id": 2}] * 9
        path = folder / "annotations" / f"{kind}_photos.json"
        path.parent.mkdir()
        annotations = {} if kind == "image_info" else {"annotations": boxes}
        path.write_text(json.dumps({"info": {"year": 2014}, "images": images, **annotations, "categories": []}))
        return path
    if kind == "tar":
        with tarfile.open(folder / "photos.tar", "w") as shard:
            for name in names:
                shard.add(folder / name, arcname=Path(name).name)
        return folder / "photos.tar"
    if kind == "parquet":
        path = folder / "photos.parquet"
        pq.write_table(
            pa.table({"image": [{"bytes": (folder / name).read_bytes(), "path": name} for name in names]}), path
        )
        return path
    lines = {
        "list.csv": ["file_name", *names],
        "names.txt": names,
        "wide.csv": ["image_id,image,width", *(f"{70 + number},{name},16" for number, name in enumerate(names))],
        "empty.csv": ["image,caption", *(f"{name}," for name in names)],
        "list.jsonl": [json.dumps({"image": name}) for name in names],
        "list.json": [json.dumps([{"image": name, "captions": []} for name in names])],
        "names.json": [json.dumps(names)],
    }
    (folder / kind).write_text("\n".join(lines[kind]) + "\n")
    return folder / kind


@pytest.mark.parametrize(
    "kind",
    [
        "folder",
        "image_info",
        "instances",
        "tar",
        "parquet",
        "list.csv",
        "names.txt",
        "wide.csv",
        "empty.csv",
        "list.jsonl",
        "list.json",
        "names.json",
    ],
)
def test_pictures_without_captions_are_captioned(
    kind: str, captioner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truepair.evaluation.captioning.find_spec", lambda name: None)  # no figures, no scorers
    source, output = _put_pictures(kind, tmp_path), tmp_path / "out"
    main(["evaluate", "captioning", str(captioner), "--data.test", str(source), "--output", str(output)])
    told = capsys.readouterr()
    said = " ".join(told.err.split())
    assert "3 pictures without captions test (splits: by data.test)" in said and "left out" not in said
    assert "the training pairs, whose captions baselines copy, are not read: nothing is compared" in said
    assert "3 of 3 pictures have no captions to compare with, so there are no figures" in said and not told.out
    written = json.loads((output / "captions.json").read_text())
    assert len(written) == 3 and all(set(entry) == {"image_id", "caption"} for entry in written)
    if kind in ("image_info", "instances", "wide.csv"):
        assert [entry["image_id"] for entry in written] == [70, 71, 72]
    shown = [json.loads(line) for line in (output / "captions.jsonl").read_text().splitlines()]
    assert [line["references"] for line in shown] == [[], [], []] and not (captioner / "captions.json").exists()
    assert json.loads((output / "captioning.json").read_text())["unmeasured"] == 3


def test_of_mixed_pictures_those_with_captions_are_measured(
    captioner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = _new_pictures(tmp_path)
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    rows = ["image,caption", f"{names[0]},it is red", f"{names[0]},the red square", f"{names[1]},", f"{names[2]},blue"]
    (tmp_path / "mixed.csv").write_text("\n".join([*rows, "photos/broken.png,"]))
    words = ["--data.test", str(tmp_path / "mixed.csv"), "--output", str(tmp_path)]
    main(["evaluate", "captioning", str(captioner), *words])
    told = capsys.readouterr()
    said = " ".join(told.err.split())
    assert "5 (2 without captions) test" in said and "mixed, test: 5 rows are 4 pictures" in said
    assert "data.test: left out: 1 of 4 pictures cannot be read" in said
    assert "1 of 3 pictures have no captions to compare with, figures are of the other 2" in said
    assert "Captions: 2 pictures, 3 references" in told.out and "nearest picture" in told.out
    assert len(json.loads((tmp_path / "captions.json").read_text())) == 3
    result = json.loads((tmp_path / "captioning.json").read_text())
    assert (result["pictures"], result["references"], result["unmeasured"]) == (2, 3, 1)

    main(["evaluate", "captioning", str(captioner), *words, "--data.test_pictures", "1"])
    assert "data.test_pictures: 1 of 4 pictures are taken, 0 takes all" in " ".join(capsys.readouterr().err.split())


def test_training_ends_with_captions_of_pictures_that_have_none(checkpoint: Path, tmp_path: Path) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    _new_pictures(tmp_path)
    finetune(recipe, run, checkpoint, "--loop.epochs", "1", "--data.test", str(tmp_path / "photos"), "--report")
    assert len(json.loads((run / "captions.json").read_text())) == 3
    assert "A model was fine-tuned." in (run / "report.html").read_text()


@pytest.mark.parametrize("kind", ["folder", "image_info", "list.csv", "names.txt"])
def test_pictures_without_captions_are_nothing_to_train_on(
    kind: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, source = write_recipe(tmp_path), _put_pictures(kind, tmp_path)

    def refused(*options: str) -> str:
        with pytest.raises(SystemExit):
            finetune(recipe, tmp_path / "run", checkpoint, *options)
        return " ".join(capsys.readouterr().err.split())

    told = refused("--data.sources", str(source))
    assert "without captions" in told
    assert "'truepair evaluate captioning' writes some, and 'truepair embed --what images' needs none" in told
    one = tmp_path / "photos" / "red-8.png"
    assert f"{one} is a picture; give the folder that it is in, or a list of files" in refused("--data.test", str(one))


def test_test_pictures_that_cannot_be_read_are_told_before_training(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"

    def refused() -> str:
        with pytest.raises(SystemExit):
            finetune(recipe, run, checkpoint)
        assert not (run / "checkpoints").exists() and not (run / "model").exists()
        return " ".join(capsys.readouterr().err.split())

    for colour in ("red", "green"):
        (tmp_path / f"{colour}-5.png").write_text(f"no picture of {colour}")
    assert "data.test: 2 of 3 pictures cannot be read; repair them; the first: " in refused()
    for colour in COLOURS:
        (tmp_path / f"{colour}-5.png").unlink()
    assert "3 of 3 pictures of pairs (test) are missing: " in refused()


def test_new_pictures_are_measured_where_the_training_pairs_are_gone(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    finetune(recipe, run, checkpoint, "--loop.epochs", "1", "--data.test_split", "", "--data.validation_split", "")
    (tmp_path / "pairs.jsonl").unlink()
    (tmp_path / "new.csv").write_text("image,caption\nred-5.png,it is red\n")
    words = ["evaluate", "captioning", str(run), "--data.test", str(tmp_path / "new.csv"), "--beams", "1"]
    with pytest.raises(SystemExit):
        main(words)
    said = " ".join(capsys.readouterr().err.split())
    assert f"data.sources: no such file or folder: {tmp_path / 'pairs.jsonl'}; check the path" in said
    assert "training pictures are for the baselines: without these, give --data.sources null" in said
    main([*words, "--data.sources", "null"])
    assert "CIDEr-D" in capsys.readouterr().out
