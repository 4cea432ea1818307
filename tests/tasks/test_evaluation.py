"""``truepair evaluate`` from the command to the figures, with truths that people or other data sets know."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.tasks import task_sets
from tests.tasks.task_sets import COLOURS, write_checkpoint
from truepair.cli.main import main

IMAGES, CAPTIONS = 10, 2
WORDS = sorted(set(task_sets.WORDS[0].split()) - {"the"})
OWN = {100 + image: [1000 + CAPTIONS * image + place for place in range(CAPTIONS)] for image in range(IMAGES)}
ALL = [caption for own in OWN.values() for caption in own]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture
def karpathy(tmp_path: Path) -> Path:
    """A test split in the layout of ``dataset_coco.json``; two images have a caption of the same text."""
    images = []
    for row, (number, captions) in enumerate(OWN.items()):
        colour = list(COLOURS.values())[row % 3]
        Image.new("RGB", (16, 16), tuple(value * (20 - row) // 20 for value in colour)).save(tmp_path / f"{number}.png")
        texts = [f"{WORDS[min(row, 8)]} {WORDS[row + 1]}", f"the {WORDS[min(row, 8)]}"]
        sentences = [{"raw": text, "sentid": caption} for text, caption in zip(texts, captions, strict=True)]
        entry = {"cocoid": number, "imgid": row, "filename": f"{number}.png", "split": "test"}
        images.append({**entry, "sentences": sentences})
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"dataset": "coco", "images": images}))
    return path


def evaluate(checkpoint: Path, data: Path, *options: str) -> dict[str, Any]:
    output = data.parent / "figures.json"
    main(["evaluate", str(checkpoint), "--data", str(data), "--output", str(output), *options])
    figures: dict[str, Any] = json.loads(output.read_text())
    return figures


def metrics() -> SimpleNamespace:
    """What ``eccv_caption.Metrics()`` has: for CxC every caption is right for the first image, for ECCV for all."""
    own = {"i2t": OWN, "t2i": {caption: [image] for image, captions in OWN.items() for caption in captions}}
    cxc = {"i2t": {**OWN, 100: ALL}, "t2i": own["t2i"]}
    anything, anywhere = [*ALL, 5], list(OWN)  # caption 5 is not in the split
    eccv = {"i2t": dict.fromkeys(OWN, anything), "t2i": dict.fromkeys(ALL, anywhere)}
    return SimpleNamespace(coco_ids=ALL, coco_gts=own, cxc_gts=cxc, eccv_gts=eccv)


def test_coco_truths(
    checkpoint: Path, karpathy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "eccv_caption", SimpleNamespace(Metrics=metrics))
    figures = evaluate(checkpoint, karpathy, "--coco", "true")
    assert "ECCV" in capsys.readouterr().out
    for way, reports in figures["coco"].items():
        values = {name: reports[name]["i2t"]["recall_at_1"]["value"] for name in ("coco_5k", "cxc", "eccv")}
        assert values["eccv"] == 1.0, "any caption will do"
        assert values["coco_5k"] <= values["cxc"] <= values["coco_5k"] + 1 / IMAGES
        first = figures["ways"][way]["naive_i2t"]["recall_at_1"]["value"]
        assert values["coco_5k"] == first, "COCO 5K is the usual protocol"
        assert len(reports["folds_1k"]) == 5
    assert set(figures["coco"]) == set(figures["ways"]) == {"similarity", "ITM"}


def test_coco_truths_need_their_package(
    checkpoint: Path, karpathy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "eccv_caption", None)
    with pytest.raises(SystemExit):
        main(["evaluate", str(checkpoint), "--data", str(karpathy), "--coco", "true"])
    assert "truepair[eccv]" in capsys.readouterr().err


def test_judged_matches_count_beside_the_naive_figures(checkpoint: Path, karpathy: Path) -> None:
    plain = evaluate(checkpoint, karpathy)["ways"]["similarity"]
    judged = karpathy.parent / "judged.jsonl"
    lines = [{"image_id": image, "caption_id": caption, "label": "match"} for image in OWN for caption in ALL]
    judged.write_text("\n".join(json.dumps({**line, "crowd": [3, 0]}) for line in lines))
    more = evaluate(checkpoint, karpathy, "--judgements", str(judged))["ways"]["similarity"]
    for way in ("i2t", "t2i"):
        assert more[way]["map_at_r"]["value"] == 1.0 > plain[way]["map_at_r"]["value"]
        assert more[f"naive_{way}"] == plain[f"naive_{way}"]


def test_figures_that_could_not_be_kept_are_not_computed(
    checkpoint: Path, karpathy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(checkpoint), "--data", str(karpathy), "--output"]
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        main([*words, str(tmp_path / "file" / "figures.json")])
    assert "figures.json cannot be written" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, str(tmp_path / "new" / "figures.json"), "--split", "tset"])
    assert not (tmp_path / "new" / "figures.json").exists()
    main([*words, str(tmp_path / "new" / "figures.json")])
    assert json.loads((tmp_path / "new" / "figures.json").read_text())


@pytest.fixture
def run(checkpoint: Path, karpathy: Path, tmp_path: Path) -> Path:
    """A run folder whose data are the ten pictures."""
    folder = tmp_path / "runs" / "x"
    shutil.copytree(checkpoint, folder / "model")
    recipe = {"data": {"sources": [karpathy.name], "train_split": "train", "min_group_size": 0}, "loop": {"epochs": 1}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def last_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("truepair: ")
    return lines[-1]


@pytest.mark.parametrize("place", [".", "model"])
def test_the_data_of_the_run_are_the_default(
    place: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["evaluate", str(run / place), "--output", "out.json"])
    title = " ".join(capsys.readouterr().out.split("\n┏")[0].split())
    assert title == "Retrieval on dataset_coco.json, test: 10 pictures, 20 captions, 19 distinct texts"
    figures = json.loads((tmp_path / "out.json").read_text())
    assert (figures["source"], figures["split"]) == ("dataset_coco.json", "test")
    assert figures == evaluate(run / "model", Path("dataset_coco.json"))
    sizes = [figures[name] for name in ("images", "own_captions", "captions")]
    assert sizes == [10, 20, 19]


def test_the_data_of_the_run_are_measured_as_the_run_does(run: Path, karpathy: Path, tmp_path: Path) -> None:
    recipe = json.loads((run / "recipe.yaml").read_text())
    recipe["data"]["sources"] = [str(karpathy)]
    (run / "recipe.yaml").write_text(json.dumps(recipe | {"evaluation": {"rerank": 0}}))
    for words, ways in (([], 1), (["--evaluation.rerank", "4"], 2), (["--data", str(karpathy)], 2)):
        main(["evaluate", str(run), "--output", str(tmp_path / "out.json"), *words])
        assert len(json.loads((tmp_path / "out.json").read_text())["ways"]) == ways


def test_a_run_of_another_task_is_measured_on_what_is_named(run: Path, karpathy: Path) -> None:
    (run / "recipe.yaml").write_text(json.dumps({"data": {"train_questions": ["q.json"]}}))
    assert evaluate(run, karpathy)["images"] == 10


def test_the_bundled_sample_is_nobodys_default(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copytree(checkpoint, tmp_path / "a" / "b" / "model")
    found = last_error(["evaluate", str(alone)], capsys)
    assert (
        found == f"truepair: there is no run beside {alone} whose data could be measured; say what is: --data pairs.csv"
    )


def rewrite_splits(karpathy: Path, *splits: str) -> Path:
    content = json.loads(karpathy.read_text())
    for number, image in enumerate(content["images"]):
        image["split"] = splits[number % len(splits)]
    karpathy.write_text(json.dumps(content))
    return karpathy


def test_a_split_that_is_not_there(
    checkpoint: Path, karpathy: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(karpathy.parent)
    words = ["evaluate", str(checkpoint), "--data", str(karpathy)]
    found = last_error([*words, "--split", "tset"], capsys)
    assert "has no split 'tset' to measure; it has test (10 rows): give --split or --data" in found
    rewrite_splits(karpathy, "train", "val")
    found = last_error(words, capsys)
    assert "has no split 'test' to measure; it has train (5 rows), val (5 rows): give --split or --data" in found
    assert "the run trained on some of them: give --split" in last_error(["evaluate", str(run)], capsys)
    rewrite_splits(karpathy, "train")
    assert "the run trained on some of them: give --split" in last_error(["evaluate", str(run)], capsys)


def test_data_without_splits_are_measured_whole(
    checkpoint: Path, karpathy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = karpathy.parent / "photos.csv"
    rows = [(f"{number}.png", f"a {number} square") for number in OWN]
    file.write_text("\n".join(["image,caption", *(f"{image},{caption}" for image, caption in rows)]))
    figures = evaluate(checkpoint, file)
    assert "photos has no splits: all its 10 rows are measured" in capsys.readouterr().err
    assert (figures["split"], figures["images"]) == ("all", 10)


def test_data_of_one_split_are_measured_though_it_is_no_test_split(
    checkpoint: Path, karpathy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = evaluate(checkpoint, rewrite_splits(karpathy, "val"))
    assert "has no split 'test', and 'val' alone: its 10 rows are measured" in capsys.readouterr().err
    assert (figures["split"], figures["images"]) == ("val", 10)


def test_missing_pictures_are_counted(checkpoint: Path, karpathy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (101, 104, 105, 108):
        (karpathy.parent / f"{number}.png").unlink()
    found = last_error(["evaluate", str(checkpoint), "--data", str(karpathy)], capsys)
    assert "4 of 10 pictures" in found
    assert "101.png" in found
    assert "105.png" in found
    assert "108.png" not in found
