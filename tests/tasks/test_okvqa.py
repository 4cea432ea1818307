"""OK-VQA and A-OKVQA, answered by ranking, from the command to the files it leaves."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.task_sets import COLOURS, write_aokvqa, write_checkpoint, write_okvqa, write_vqa
from truepair.cli.arguments import find_recipe, read_recipe
from truepair.cli.main import main
from truepair.cli.tasks import task_command
from truepair.evaluation.aokvqa import AokvqaAccuracy
from truepair.tasks.vqa_recipe import VqaRecipe
from truepair.tasks.vqa_results import VqaResult

FAST: dict[str, Any] = {
    "optimizer": {"learning_rate": 0.003, "warmup_steps": 4},
    "loop": {"epochs": 20, "batch_size": 9, "workers": 0, "log_every": 5, "cpu": True, "evaluate_every": 10},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("start") / "model")


def put_recipe(folder: Path, data: dict[str, Any], **fields: Any) -> Path:
    path = folder / "squares.yaml"
    path.write_text(json.dumps({**FAST, "data": data, **fields}))
    return path


def call(*words: str) -> None:
    main([*words])


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*words])
    return " ".join(capsys.readouterr().err.split())


def train(recipe: Path, run: Path, checkpoint: Path, *options: str) -> list[str]:
    return ["train", "vqa", str(recipe), "--run-folder", str(run), "--model.checkpoint", str(checkpoint), *options]


def test_okvqa_is_trained_and_measured(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run = put_recipe(tmp_path, write_okvqa(tmp_path)), tmp_path / "run"
    call(*train(recipe, run, checkpoint, "--loop.epochs", "40"))
    told = capsys.readouterr()
    said = " ".join(told.err.split())
    assert "6 answers to choose from" in said, "'unheard of' was given often enough, too"
    name = "OpenEnded_mscoco_val2014_questions.json"
    assert f"data.test: {name}: 6 images lie as train2017/{{id:012d}}.jpg below" in said
    assert f"data.test: {name}: answers are those under 'answer', stemmed, as OK-VQA's evaluation scores them" in said
    assert "VQA accuracy: 12 questions" in told.out and "Vehicles and Transportation" in told.out
    accuracies = json.loads((run / "vqa.json").read_text())["accuracies"]
    assert accuracies["model"]["overall"] > accuracies["text alone"]["overall"]
    assert set(accuracies["model"]["by_question_type"]) == {
        "Vehicles and Transportation",
        "Brands, Companies and Products",
    }
    results = (run / "vqa_results.json").read_text()
    assert len(json.loads(results)) == 12 and not (run / "aokvqa_predictions.json").exists()
    (run / "vqa_results.json").unlink()
    call("evaluate", "vqa", str(run / "model"))
    assert (run / "vqa_results.json").read_text() == results


def test_aokvqa_is_answered_in_both_ways(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources, run = write_aokvqa(tmp_path), tmp_path / "run"
    data = {"train": sources["train"], "validation": sources["val"], "test": sources["val"]}
    recipe = put_recipe(tmp_path, data)
    call(*train(recipe, run, checkpoint, "--loop.best_figure", "multiple_choice", "--report"))
    told = capsys.readouterr()
    said = " ".join(told.err.split())
    assert "4 answers to choose from" in said
    assert "data.test: left out: 1 of 3 questions are difficult to answer in own words, and count among choices" in said
    assert "A-OKVQA: 3 questions" in told.out and "multiple choice" in told.out and "direct answer" in told.out
    assert "A-OKVQA: 3 questions" in (run / "report.html").read_text()
    result = json.loads((run / "vqa.json").read_text())["accuracies"]
    assert result["model"] == {
        "multiple_choice": 1.0,
        "choice_questions": 3,
        "direct_answer": 1.0,
        "direct_questions": 2,
    }
    assert result["majority"]["multiple_choice"] < 1 and list(result) == ["model", "text alone", "majority"]
    predictions = json.loads((run / "aokvqa_predictions.json").read_text())
    assert predictions == {
        f"val-{colour}-4": {"multiple_choice": colour, "direct_answer": colour} for colour in COLOURS
    }
    assert not (run / "vqa_results.json").exists()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {"accuracy", "multiple_choice"} <= set(next(one for one in log if one["kind"] == "validation"))

    call("evaluate", "vqa", str(run / "model"), "--difficult_questions", "true", "--generate", "true")
    again = json.loads((run / "vqa.json").read_text())["accuracies"]["model"]
    assert again["direct_questions"] == 3 and again["multiple_choice"] == 1.0

    call("evaluate", "vqa", str(run / "model"), "--data.test", json.dumps(sources["test"]))
    assert json.loads((run / "vqa.json").read_text()) == {"questions": 3, "accuracies": {}}
    hidden = json.loads((run / "aokvqa_predictions.json").read_text())
    assert hidden == {f"test-{colour}-5": {"multiple_choice": colour, "direct_answer": colour} for colour in COLOURS}


def test_choices_that_the_decoder_cannot_write_are_told(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources, run = write_aokvqa(tmp_path), tmp_path / "run"
    file = Path(sources["val"][0]["questions"])
    entries = json.loads(file.read_text())
    entries[0]["choices"] = ["left", "the picture", "right", "small"]
    file.write_text(json.dumps(entries))
    recipe = put_recipe(tmp_path, {"train": sources["train"], "test": sources["val"]})
    call(*train(recipe, run, checkpoint, "--loop.epochs", "1", "--data.least_answers", "10"))
    said = " ".join(capsys.readouterr().err.split())
    assert "4 of 8 choices have tokens that the model's decoder does not know, and are not chosen; train with" in said
    predictions = json.loads((run / "aokvqa_predictions.json").read_text())
    assert predictions["val-red-4"]["multiple_choice"] == "left", "of choices that it does not know, the first"
    call(*train(recipe, tmp_path / "whole", checkpoint, "--loop.epochs", "1", "--list_vocabulary", "false"))
    said = " ".join(capsys.readouterr().err.split())
    assert "decoder does not know" not in said and "max_answer_length" not in said
    call("evaluate", "vqa", str(tmp_path / "whole"), "--max_answer_length", "3")
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 8 choices have more than 1 tokens, and are compared by these; raise max_answer_length" in said


def test_mistakes_are_one_line(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources, okvqa, runs = write_aokvqa(tmp_path), write_okvqa(tmp_path), itertools.count()

    def refused(data: dict[str, Any], *options: str) -> str:
        recipe, run = put_recipe(tmp_path, data), tmp_path / f"run-{next(runs)}"
        return refusal(capsys, *train(recipe, run, checkpoint, *options))

    both = {"train": okvqa["train"], "test": [*okvqa["test"], *sources["val"]]}
    said = refused(both, "--loop.epochs", "1")
    assert "data.test: 3 of 15 questions are of A-OKVQA, whose accuracy is another one; measure each data set" in said
    assert "no training answer was given 9 times, and there is none to choose" in refused({"train": sources["test"]})
    said = refused({"train": sources["train"]}, "--data.least_answers", "99")
    assert "no training answer was given 99 times, and there is none to choose from; lower data.least_answers" in said
    assert "data.train names no files; state them, or data.sample" in refused({})
    assert "answer_field" in refused({"train": [{**okvqa["train"][0], "answer_field": "stemmed"}]})
    assert "prompt is 'Answer this'; it must hold {} once" in refused(okvqa, "--prompt", "Answer this")
    swapped = {"questions": okvqa["train"][0]["annotations"], "annotations": okvqa["train"][0]["questions"]}
    assert "has no list of objects under" in refused({"train": [{**okvqa["train"][0], **swapped}]})
    elsewhere = {**okvqa["train"][0], "image_root": str(tmp_path / "nowhere")}
    assert "12 of 12 images of OpenEnded_mscoco_train2014_questions.json are missing" in refused({"train": [elsewhere]})


def test_both_data_sets_train_one_model(checkpoint: Path, tmp_path: Path) -> None:
    sources, okvqa = write_aokvqa(tmp_path), write_okvqa(tmp_path)
    recipe = put_recipe(tmp_path, {"train": [*okvqa["train"], *sources["train"]], "test": sources["val"]})
    call(*train(recipe, tmp_path / "run", checkpoint, "--loop.epochs", "1"))
    assert json.loads((tmp_path / "run" / "vqa.json").read_text())["accuracies"]["model"]["choice_questions"] == 3


def test_the_questions_of_vqa_need_no_list(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_vqa(tmp_path)
    files = {name: str(tmp_path / f"train2014_{name}.json") for name in ("questions", "annotations")}
    source = {**files, "image_root": str(tmp_path), "image_pattern": "{subtype}/{id}.png"}
    recipe = put_recipe(tmp_path, {"train": [source], "least_answers": 20})
    call(*train(recipe, tmp_path / "run", checkpoint, "--loop.epochs", "1"))
    assert "5 answers to choose from" in capsys.readouterr().err


def test_recipes_lie_over_each_other() -> None:
    def read(*names: str) -> VqaRecipe:
        layers = [find_recipe(name, "vqa") for name in names]
        recipe: VqaRecipe = read_recipe(task_command("vqa").recipe.load(), layers, [], command="test")
        return recipe

    okvqa, written, among = read("okvqa"), read("okvqa", "blip2"), read("okvqa", "aokvqa", "blip2")
    assert okvqa.data.least_answers == 6 and not okvqa.data.answers and okvqa.model.max_length == 30
    assert written.data == okvqa.data and written.model.max_length is None and written.model.transform is not None
    assert (written.model.transform.size, written.optimizer.image_learning_rate) == (0, None)
    assert (written.prompt, written.beams, written.length_penalty) == ("Question: {} Short answer:", 5, -1.0)
    assert [Path(source.questions).name for source in among.data.train] == ["aokvqa_v1p0_train.json"]
    assert among.loop.best_figure == "multiple_choice" and among.loop.batch_size == 32


def test_results_are_tables_that_people_read() -> None:
    accuracies = {"model": AokvqaAccuracy(0.5, 10, 0.25, 8), "majority": AokvqaAccuracy(0.3, 10, 0.1, 8)}
    table = VqaResult(10, dict(accuracies)).table()
    assert table.title == "A-OKVQA: 10 questions" and table.columns == ["questions", "model", "majority"]
    assert table.rows == [["multiple choice", "50.0%", "30.0%"], ["direct answer", "25.0%", "10.0%"]]
    assert VqaResult(2, {"model": AokvqaAccuracy(0.5, 2, None, 0)}).table().rows == [["multiple choice", "50.0%"]]
