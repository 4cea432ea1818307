"""OK-VQA and A-OKVQA, answered by the language model of a BLIP-2, from the command to the files it leaves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.judges.tiny_judges import save_blip2
from tests.tasks.task_sets import COLOURS, write_aokvqa, write_checkpoint, write_okvqa
from truepair.cli.main import main
from truepair.data.open import open_pairs
from truepair.models.fusion.blip2_language import Blip2LanguageModel

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
GPT2 |= {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
LOOP = {"batch_size": 12, "workers": 0, "log_every": 5, "cpu": True}


@pytest.fixture(scope="module")
def first_stage(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blip2(tmp_path_factory.mktemp("start") / "blip2", open_pairs(squares / "pairs.jsonl"))


def put_recipe(folder: Path, data: dict[str, Any], first_stage: Path, **fields: Any) -> Path:
    recipe = {
        "data": data,
        "model": {
            "checkpoint": str(first_stage),
            "language": {"options": GPT2, "freeze": False},
            "freeze_image": True,
            "cache_images": True,
            "cache_folder": str(folder / "cache"),
        },
        "max_answer_length": 6,
        "optimizer": {"learning_rate": 0.006, "warmup_steps": 4},
        "loop": {"epochs": 70, **LOOP},
        **fields,
    }
    path = folder / "squares.yaml"
    path.write_text(json.dumps(recipe))
    return path


def train(recipe: Path, run: Path, *options: str) -> None:
    main(["train", "vqa", str(recipe), "--run-folder", str(run), *options])


def test_okvqa_is_answered_in_own_words(first_stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run = put_recipe(tmp_path, write_okvqa(tmp_path), first_stage), tmp_path / "run"
    train(recipe, run)
    told = capsys.readouterr()
    said = " ".join(told.err.split())
    assert "a BLIP-2 of 3 queries, and a gpt2 of random weights, which is trained, too" in said
    assert "answers to choose from" not in said, "it writes them"
    assert "VQA accuracy: 12 questions" in told.out
    accuracies = json.loads((run / "vqa.json").read_text())["accuracies"]
    assert accuracies["model"]["overall"] > accuracies["text alone"]["overall"]
    results = (run / "vqa_results.json").read_text()
    assert {entry["answer"] for entry in json.loads(results)} <= {*COLOURS, "yes", "no", "unheard of"}
    (run / "vqa_results.json").unlink()
    main(["evaluate", "vqa", str(run)])
    assert (run / "vqa_results.json").read_text() == results, "the model in the folder is the one that was measured"


def test_aokvqa_is_answered_in_both_ways(
    first_stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    write = Blip2LanguageModel.write

    def noted(self: Blip2LanguageModel, *tensors: torch.Tensor, **settings: Any) -> list[list[int]]:
        asked.append(settings)
        return write(self, *tensors, **settings)

    monkeypatch.setattr(Blip2LanguageModel, "write", noted)
    sources, run = write_aokvqa(tmp_path), tmp_path / "run"
    data = {"train": sources["train"], "validation": sources["val"], "test": sources["val"]}
    recipe = put_recipe(tmp_path, data, first_stage, prompt="Q: {} A:")
    train(recipe, run, "--loop.evaluate_every", "35", "--beams", "3", "--report")
    assert asked[0] == {"beams": 3, "max_length": 6, "length_penalty": -1.0}, "as BLIP-2 writes answers"
    said = " ".join(capsys.readouterr().err.split())
    assert "data.test: left out: 1 of 3 questions are difficult to answer in own words" in said
    assert "A-OKVQA: 3 questions" in (run / "report.html").read_text()
    result = json.loads((run / "vqa.json").read_text())["accuracies"]["model"]
    assert (result["multiple_choice"], result["direct_answer"], result["direct_questions"]) == (1.0, 1.0, 2)
    predictions = json.loads((run / "aokvqa_predictions.json").read_text())
    assert predictions == {
        f"val-{colour}-4": {"multiple_choice": colour, "direct_answer": colour} for colour in COLOURS
    }
    assert json.loads((run / "model" / "preprocessing.json").read_text())["prompt"] == "Q: {} A:"
    main(["evaluate", "vqa", str(run), "--data.test", json.dumps(sources["test"]), "--length_penalty", "0.5"])
    assert asked[-1]["length_penalty"] == 0.5
    assert set(json.loads((run / "aokvqa_predictions.json").read_text())) == {f"test-{colour}-5" for colour in COLOURS}


def test_a_whole_blip2_is_trained_further(
    first_stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = put_recipe(tmp_path, write_okvqa(tmp_path), first_stage), tmp_path / "run"
    train(recipe, run, "--loop.epochs", "1", "--data.test", "[]")
    capsys.readouterr()
    whole = ["--model.checkpoint", str(run / "model"), "--loop.epochs", "1"]
    train(recipe, tmp_path / "further", *whole, "--model.language", "null")
    said = " ".join(capsys.readouterr().err.split())
    assert "a BLIP-2 of 3 queries, whose language model rests" in said
    before, after = (_weights(folder / "model") for folder in (run, tmp_path / "further"))
    moved = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"query_tokens", "qformer", "language_projection"}

    elsewhere = tmp_path / "elsewhere" / "model"
    shutil.copytree(run / "model", elsewhere)
    settings = json.loads((elsewhere / "preprocessing.json").read_text())
    (elsewhere / "preprocessing.json").write_text(json.dumps({**settings, "prompt": "a photo of", "max_length": 4}))
    main(["evaluate", "vqa", str(elsewhere), str(recipe)])
    assert len(json.loads((elsewhere.parent / "vqa_results.json").read_text())) == 12, "a model of captions, say"


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(Blip2LanguageModel.from_pretrained(folder).model.state_dict())


def test_mistakes_are_one_line(first_stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, albef = put_recipe(tmp_path, write_okvqa(tmp_path), first_stage), write_checkpoint(tmp_path / "albef")

    def refused(*options: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            train(recipe, tmp_path / "run", *options)
        return " ".join(capsys.readouterr().err.split())

    assert "similarity_weight is for a list of answers" in refused("--similarity_weight", "1")
    assert "that of questions is 'prompt'; give it there" in refused("--model.language.prompt", "a photo of")
    assert "which has no language model; name one" in refused("--model.language", "null")
    assert "data.train: the longest question has" in refused("--max_answer_length", "60")
    assert "leaves 4 beside an answer of max_answer_length (6); raise model.max_length" in refused(
        "--model.max_length", "10"
    )
    assert "model.language is for a BLIP-2, and" in refused("--model.checkpoint", str(albef))
