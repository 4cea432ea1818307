"""Every command takes a checkpoint file of another program, and gives what the folder made of it gives."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BlipForImageTextRetrieval

from tests.data.makers import noise, put, put_json
from tests.models.checkpoints.official_files import albef, blip, blip_state, retrieval_state, save_tokenizer
from tests.models.folders import CAPTIONS
from truepair.cli.main import main
from truepair.errors import CheckpointError
from truepair.models.checkpoints.load import load_hub_model
from truepair.models.open import open_model
from truepair.tasks.start import StartConfig, load_start


@pytest.fixture
def karpathy(tmp_path: Path) -> Path:
    """``dataset_flickr30k.json`` of twelve pictures, as Karpathy ships it, beside the pictures."""
    images = []
    for number in range(12):
        put(tmp_path / "flickr" / f"{number}.jpg", noise(number))
        split = "test" if number < 6 else "val" if number < 8 else "train"
        sentences = [{"raw": CAPTIONS[(number + k) % 6], "sentid": 2 * number + k, "imgid": number} for k in (0, 1)]
        entry = {"filename": f"{number}.jpg", "imgid": number, "split": split, "sentences": sentences}
        images.append({**entry, "sentids": [2 * number, 2 * number + 1]})
    return put_json(tmp_path / "flickr" / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})


@pytest.fixture(params=["albef", "blip"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint with the files of its tokenizer beside it."""
    save_tokenizer(tmp_path / "weights")
    state = retrieval_state(albef().half()) if request.param == "albef" else blip_state(blip())
    torch.save({"model": state, "epoch": 4}, tmp_path / "weights" / "official.pth")
    return tmp_path / "weights" / "official.pth"


def test_from_official_weights_to_zero_shot_figures(file: Path, karpathy: Path, tmp_path: Path) -> None:
    main(["convert", str(file), str(tmp_path / "m")])
    figures = []
    for name, model in (("folder", tmp_path / "m"), ("file", file)):
        output = tmp_path / f"{name}.json"
        main(["evaluate", str(model), "--data", str(karpathy), "--evaluation.rerank", "3", "--output", str(output)])
        figures.append(json.loads(output.read_text()))
    assert figures[0] == figures[1]
    assert (figures[0]["images"], figures[0]["own_captions"]) == (6, 12)
    assert {"similarity", "ITM"} <= figures[0]["ways"].keys()  # both read image and text together


def test_vectors_of_a_file(file: Path, karpathy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", str(file), str(tmp_path / "m")])
    for model in (file, tmp_path / "m"):
        main(["embed", str(model), str(karpathy), "--output", str(tmp_path / f"{model.name}.parquet")])
    one, other = (pq.read_table(tmp_path / f"{name}.parquet")["vector"].to_pylist() for name in (file.name, "m"))
    np.testing.assert_array_equal(one, other)
    main(["search", str(file), str(tmp_path / f"{file.name}.parquet"), "a small red square"])
    assert "images of 16 px, normalised as for CLIP" in capsys.readouterr().err


def test_training_from_a_file(file: Path, karpathy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "clip", str(karpathy), "--model.checkpoint", str(file), "--run-folder", str(tmp_path / "run")]
    words += ["--loop.epochs", "1", "--loop.batch_size", "4", "--loop.workers", "0", "--objectives.itm.weight", "1"]
    main([*words, "--data.transform.size", "16"])
    assert "official.pth: " in capsys.readouterr().err
    trained, start = open_model(tmp_path / "run").model, open_model(file, print).model
    assert type(trained) is type(start)
    changed = [n for n, value in trained.state_dict().items() if not torch.equal(value, start.state_dict()[n])]
    assert any("itm_head" in name for name in changed) and any("temp" in name for name in changed)
    main(["evaluate", str(tmp_path / "run")])


def test_mlm_is_refused_where_there_is_no_vocabulary_head(karpathy: Path, tmp_path: Path) -> None:
    torch.save(blip_state(blip()), tmp_path / "blip.pth")
    main(
        ["convert", str(tmp_path / "blip.pth"), str(tmp_path / "m"), "--tokenizer", str(save_tokenizer(tmp_path / "t"))]
    )
    words = ["train", "clip", str(karpathy), "--model.checkpoint", str(tmp_path / "m"), "--loop.batch_size", "4"]
    with pytest.raises(SystemExit):
        main([*words, "--objectives.mlm.weight", "1", "--run-folder", str(tmp_path / "run")])


def test_mining_by_a_file(file: Path, karpathy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["mine", str(karpathy), "--model", str(file), "--run-folder", str(tmp_path / "mined")]
    main(words)
    assert "official.pth: images of 16 px" in capsys.readouterr().err
    assert (tmp_path / "mined" / "candidates.parquet").is_file()


def test_fine_tuning_and_judging_start_from_a_file(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    model = albef()
    torch.save({"model": retrieval_state(model)}, tmp_path / "official.pth")
    start = load_start(StartConfig(checkpoint=str(tmp_path / "official.pth"), max_length=20), seed=0, say=print)
    assert torch.equal(start.albef.temp, model.temp) and start.preprocessing.max_length == 20
    torch.save(blip_state(blip()), tmp_path / "blip.pth")
    with pytest.raises(CheckpointError, match=r"blip\.pth is a BlipForImageTextRetrieval; give an ALBEF, or a folder"):
        load_start(StartConfig(checkpoint=str(tmp_path / "blip.pth")), seed=0, say=print)
    with pytest.raises(CheckpointError, match="is a file, and a folder of a model is needed here; make one: truepair"):
        load_hub_model(BlipForImageTextRetrieval, str(tmp_path / "blip.pth"))
