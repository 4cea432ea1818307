"""Fine-tuning on tiny sets, from the command to the files it leaves."""

import csv
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.processes import run_ranks
from tests.tasks.task_sets import write_checkpoint, write_nlvr2, write_vqa
from truepair.cli.arguments import bundled_recipes, find_recipe, read_recipe
from truepair.cli.main import main
from truepair.cli.tasks import task_command, trained_tasks
from truepair.engine.logs.log import read_log
from truepair.engine.loop.config import LoopConfig
from truepair.errors import ConfigError
from truepair.evaluation.nlvr2 import Nlvr2Metrics
from truepair.evaluation.vqa import VqaAccuracy
from truepair.tasks.downstream import with_data
from truepair.tasks.nlvr2 import Nlvr2Result
from truepair.tasks.vqa import VqaResult

FAST: dict[str, Any] = {
    "optimizer": {"learning_rate": 0.003, "warmup_steps": 4},
    "loop": {"epochs": 20, "batch_size": 9, "workers": 0, "log_every": 2, "cpu": True, "evaluate_every": 5},
}

BEST = ["--loop.evaluate_every", "1", "--loop.best_figure", "accuracy"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("start") / "model")


def vqa_recipe(folder: Path) -> Path:
    write_vqa(folder / "vqa")

    def source(subtype: str) -> dict[str, str]:
        """One split."""
        files = {name: str(folder / "vqa" / f"{subtype}_{name}.json") for name in ("questions", "annotations")}
        return {**files, "image_root": str(folder / "vqa"), "image_pattern": "{subtype}/{id}.png"}

    data = {"train": [source("train2014")], "validation": [source("val2014")], "test": [source("val2014")]}
    recipe = {**FAST, "data": {**data, "answers": str(folder / "vqa" / "answer_list.json")}}
    path = folder / "squares.yaml"
    path.write_text(json.dumps(recipe))
    return path


def nlvr2_recipe(folder: Path) -> Path:
    write_nlvr2(folder / "nlvr2")

    def source(split: str) -> dict[str, str]:
        """One split."""
        return {"statements": str(folder / "nlvr2" / f"{split}.json"), "image_root": str(folder / "nlvr2")}

    data = {"train": [source("train")], "validation": [source("dev")], "test": [source("dev")]}
    path = folder / "squares.yaml"
    path.write_text(json.dumps({**FAST, "data": data}))
    return path


def finetune(task: str, recipe: Path, run: Path, checkpoint: Path, *options: str) -> None:
    words = ["--run-folder", str(run), "--model.checkpoint", str(checkpoint), *options]
    main(["finetune", task, str(recipe), *words])


def test_vqa(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run = vqa_recipe(tmp_path), tmp_path / "run"
    finetune("vqa", recipe, run, checkpoint, "--loop.best_figure", "accuracy")
    assert "text alone" in capsys.readouterr().out
    accuracies = json.loads((run / "vqa.json").read_text())["accuracies"]
    assert accuracies["model"]["overall"] > accuracies["text alone"]["overall"] >= accuracies["majority"]["overall"]
    written = json.loads((run / "vqa_results.json").read_text())
    assert len(written) == 6 and all(set(entry) == {"question_id", "answer"} for entry in written)
    before = (run / "vqa_results.json").read_text()
    (run / "vqa_results.json").unlink()
    main(["evaluate", "vqa", str(run / "model")])
    assert (run / "vqa_results.json").read_text() == before, "the model in the folder is the one that was measured"
    main(["evaluate", "vqa", str(run / "model"), "--generate", "true"])
    freely = {entry["question_id"]: entry["answer"] for entry in json.loads((run / "vqa_results.json").read_text())}
    ranked = {entry["question_id"]: entry["answer"] for entry in written}
    assert freely == ranked, "on an easy set the likeliest words are the likeliest answer"


def test_vqa_on_caches_answers_as_on_images(checkpoint: Path, tmp_path: Path) -> None:
    recipe = vqa_recipe(tmp_path)
    frozen = ["--model.freeze_image", "true", "--model.freeze_text", "true", "--loop.epochs", "1"]
    caches = ["--model.cache_images", "true", "--model.cache_texts", "true"]
    caches += ["--model.cache_folder", str(tmp_path / "cache"), "--model.options", "{token_products: true}"]
    frozen += ["--model.options", "{token_products: true}"]
    finetune("vqa", recipe, tmp_path / "images", checkpoint, *frozen)
    finetune("vqa", recipe, tmp_path / "states", checkpoint, *frozen, *caches)
    start = load_file(checkpoint / "model.safetensors")
    images, states = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("images", "states"))
    name = "text_encoder.layers.0.self_attention.query.weight"
    assert any(torch.equal(images[key], start[key]) for key in images if key.startswith("text_encoder."))
    assert all(torch.equal(images[key], start[key]) for key in images if key.startswith("image_encoder.")), name
    moved = [key for key in images if key in start and not torch.equal(images[key], start[key])]
    assert moved and all(key.startswith("fusion_encoder.") for key in moved)
    for key in images:  # caches hold half precision
        torch.testing.assert_close(states[key], images[key], rtol=0.2, atol=0.02)


def test_vqa_that_copies_and_compares(checkpoint: Path, tmp_path: Path) -> None:
    recipe, run = vqa_recipe(tmp_path), tmp_path / "run"
    options = ["--model.options", "{token_products: true, copy_question: true}", "--loop.epochs", "1"]
    finetune("vqa", recipe, run, checkpoint, *options, "--report")
    page = (run / "report.html").read_text()
    assert "VQA accuracy: 6 questions" in page and "truepair finetune vqa" in page
    assert "accuracy/yes/no" in page and ">Validation</figcaption>" in page
    before = (run / "vqa_results.json").read_text()
    main(["evaluate", "vqa", str(run / "model"), "--similarity_weight", "1000"])
    assert (run / "vqa_results.json").read_text() != before


def test_nlvr2_goes_on_where_it_was_stopped(checkpoint: Path, tmp_path: Path) -> None:
    recipe, run = nlvr2_recipe(tmp_path), tmp_path / "run"
    options = ["--loop.epochs", "2", "--model.options", "{token_products: true}"]
    finetune("nlvr2", recipe, run, checkpoint, *options)
    metrics = json.loads((run / "nlvr2.json").read_text())["metrics"]
    assert set(metrics) == {"model", "text alone", "majority"} and metrics["model"]["statements"] == 27
    with (run / "nlvr2_predictions.csv").open() as lines:
        rows = list(csv.reader(lines))
    assert len(rows) == 27 and {said for _, said in rows} <= {"True", "False"}
    final = load_file(run / "model" / "model.safetensors")
    shutil.rmtree(run / "model")
    shutil.rmtree(sorted((run / "checkpoints").glob("step-*"))[-1])
    finetune("nlvr2", recipe, run, checkpoint, *options)
    again = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(again[name], final[name]) for name in final), "a resumed run is the uninterrupted one"


def assignment(squares: Path, **loop: object) -> str:
    """Text assignment on the pairs of squares, as an option."""
    transform = {"size": 32, "normalisation": "none", "rand_augment_ops": 0}
    loop = {**FAST["loop"], "epochs": 2, "batch_size": 12, "log_every": 1, **loop}
    return json.dumps({"data": {"sources": [str(squares / "pairs.jsonl")], "transform": transform}, "loop": loop})


def test_text_assignment_comes_first(checkpoint: Path, squares: Path, tmp_path: Path) -> None:
    recipe, run = nlvr2_recipe(tmp_path), tmp_path / "run"
    options = ["--assignment", assignment(squares), "--loop.epochs", "1", "--model.freeze_text", "true"]
    finetune("nlvr2", recipe, run, checkpoint, *options)
    start, assigned, final = (
        load_file(folder / "model.safetensors") for folder in (checkpoint, run / "assignment" / "model", run / "model")
    )
    assert {name for name in assigned if name not in final} == {"assignment.weight", "assignment.bias"}
    assert all(torch.equal(assigned[name], start[name]) for name in assigned if name.startswith("text_encoder."))
    moved = [name for name in assigned if name in final and not torch.equal(assigned[name], final[name])]
    assert "classifier.0.weight" in moved and any(name.startswith("fusion_encoder.") for name in moved)
    sizes = (run / "assignment" / "model", run / "model")
    assert [json.loads((f / "config.json").read_text())["image_encoder"]["image_size"] for f in sizes] == [32, 16]
    shutil.rmtree(run / "checkpoints")
    finetune("nlvr2", recipe, run, checkpoint, *options)
    again = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(again[name], final[name]) for name in final), "the first stage is not trained again"


@dataclass(frozen=True)
class Nlvr2Run:
    """Text assignment and an epoch of NLVR2, on two processes."""

    recipe: Path
    folder: Path
    checkpoint: Path
    squares: Path
    shard: bool

    def go(self) -> None:
        first = assignment(self.squares, epochs=1, batch_size=6, shard=self.shard)
        options = ["--assignment", first, "--loop.epochs", "1", "--loop.batch_size", "4", "--loop.log_every", "1"]
        finetune("nlvr2", self.recipe, self.folder, self.checkpoint, *options, "--loop.shard", str(self.shard).lower())


def test_both_stages_with_spread_weights(checkpoint: Path, squares: Path, tmp_path: Path) -> None:
    recipe = nlvr2_recipe(tmp_path)
    runs = [Nlvr2Run(recipe, tmp_path / name, checkpoint, squares, name == "spread") for name in ("whole", "spread")]
    for run in runs:
        assert run_ranks([run] * 2, limit=300) == [0, 0]
    for stage in (".", "assignment"):
        whole, spread = (read_log(run.folder / stage / "log.jsonl") for run in runs)
        losses = [record["loss"] for record in whole if record["kind"] == "step"]
        assert len(losses) > 2
        assert [record["loss"] for record in spread if record["kind"] == "step"] == pytest.approx(losses, rel=1e-3)
    answers = [(run.folder / "nlvr2_predictions.csv").read_text() for run in runs]
    assert answers[0] == answers[1]


def test_the_best_on_validation_is_left(checkpoint: Path, tmp_path: Path) -> None:
    recipe, run = nlvr2_recipe(tmp_path), tmp_path / "run"
    finetune("nlvr2", recipe, run, checkpoint, "--loop.epochs", "3", *BEST)
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    scores = {record["step"]: record["accuracy"] for record in records if record["kind"] == "validation"}
    best = max(sorted(scores), key=scores.__getitem__)
    kept = load_file(run / "checkpoints" / f"step-{best:08}" / "model.safetensors")
    left = load_file(run / "model" / "model.safetensors")
    assert len(scores) == 3 and all(torch.equal(kept[name], left[name]) for name in left)


def test_retrieval_at_another_size(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = write_checkpoint(tmp_path / "start")
    recipe = tmp_path / "squares.yaml"
    transform = {"size": 32, "normalisation": "none", "rand_augment_ops": 0}
    data = {"sources": [str(squares / "pairs.jsonl")], "validation_split": "test", "transform": transform}
    objectives = {"mlm": {"weight": 0.0}}
    loop = {**FAST["loop"], "epochs": 2, "batch_size": 12, "evaluate_every": 1, "best_figure": "i2t_r@1"}
    recipe.write_text(json.dumps({"data": data, "objectives": objectives, "loop": loop, "text": {"max_length": 8}}))
    finetune("retrieval", recipe, tmp_path / "run", start)
    assert "similarity + ITM" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["image_encoder"]["image_size"] == 32
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    step = next(record for record in records if record["kind"] == "step")
    assert {"itc", "itm"} <= set(step) and "mlm" not in step


def test_judged_matches_count(squares: Path, tmp_path: Path) -> None:
    from truepair.data.judgements import judged_captions, read_judgements
    from truepair.data.open import open_pairs
    from truepair.tasks.retrieval import build_truth

    table = open_pairs(str(squares / "pairs.jsonl")).split("test")
    captions = [ids[0] for ids in table.rows["caption_ids"]]
    pair = {"image_id": int(table.image_ids[0]), "caption_id": captions[5], "label": "match"}
    (tmp_path / "judged.jsonl").write_text(json.dumps(pair))
    judged = judged_captions(table, read_judgements(tmp_path / "judged.jsonl"))
    plain, more = build_truth(table), build_truth(table, judged)
    assert len(more.true) == len(plain.true) + 1 and len(more.own) == len(plain.own)


def test_retrieval_does_not_start_from_nothing(
    tmp_path: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.sources", json.dumps([str(squares / "pairs.jsonl")]), "--run-folder", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        main(["finetune", "retrieval", "photos", "--model.text_checkpoint", "null", *data])
    assert "nothing to start from" in capsys.readouterr().err


def test_photos_itm_starts_from_what_photos_leaves(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (
        read_recipe(task_command("retrieval").recipe.load(), [find_recipe(name, "retrieval")], [], command="test")
        for name in ("photos", "photos_itm")
    )
    assert first.model.options["region_products"] and first.objectives.itm.weight == 0
    assert second.objectives.itc.weight == 0 and second.objectives.itm.start_epoch == 0 and second.evaluation.rerank
    assert (second.data.transform, second.text.max_length) == (first.data.transform, first.text.max_length)
    data = ["--data.sources", json.dumps([str(squares / "pairs.jsonl")]), "--run-folder", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        main(["finetune", "retrieval", "photos_itm", *data])
    assert "model.checkpoint names nothing to start from" in capsys.readouterr().err


def test_every_bundled_recipe_of_a_task_is_one() -> None:
    for task in trained_tasks():
        assert {"paper", "sample"} <= set(bundled_recipes(task))
        for name in bundled_recipes(task):
            assert read_recipe(
                task_command(task, trained=True).recipe.load(), [find_recipe(name, task)], [], command="test"
            )
    layers = [find_recipe("paper", "retrieval"), find_recipe("srcl", "retrieval")]
    recipe = read_recipe(task_command("retrieval").recipe.load(), layers, [], command="test")
    assert recipe.srcl.alpha.start == 0 and recipe.momentum is None and recipe.objectives.mlm.weight == 0


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        task_command("nlvr")
    with pytest.raises(SystemExit):
        main(["finetune", "vqa", "paper", "--run-folder", str(tmp_path / "run")])
    assert "truepair: " in capsys.readouterr().err


@pytest.mark.parametrize("task", ["vqa", "nlvr2"])
def test_validation_without_truth_is_one_line(
    task: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = vqa_recipe(tmp_path) if task == "vqa" else nlvr2_recipe(tmp_path)
    settings = json.loads(recipe.read_text())
    if task == "vqa":
        del settings["data"]["validation"][0]["annotations"]
        recipe.write_text(json.dumps(settings))
    else:
        file = Path(settings["data"]["validation"][0]["statements"])
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("\n".join(json.dumps({k: v for k, v in line.items() if k != "label"}) for line in lines))
    with pytest.raises(SystemExit):
        finetune(task, recipe, tmp_path / "run", checkpoint)
    assert "data.validation: a " in capsys.readouterr().err


def test_the_stages_of_nlvr2_share_their_precision() -> None:
    layers = [find_recipe(name, "nlvr2") for name in ("paper", "assignment")]
    kind = task_command("nlvr2").recipe.load()
    both = ["--loop.precision", "bf16", "--assignment.loop.precision", "bf16"]
    assert read_recipe(kind, layers, both, command="test").loop.precision == "bf16"
    with pytest.raises(ConfigError, match="both the same precision and cpu"):
        read_recipe(kind, layers, both[:2], command="test")


def test_results_are_tables_that_people_read() -> None:
    accuracies = {
        "model": VqaAccuracy(0.5, 1234, {"yes/no": 0.75, "other": 0.25}, {f"kind {n}": 0.5 for n in range(20)}),
        "majority": VqaAccuracy(0.25, 1234, {"yes/no": 0.5, "other": 0.0}, {f"kind {n}": 0.5 for n in range(20)}),
    }
    table = VqaResult(1234, accuracies).table()
    assert table.title == "VQA accuracy: 1,234 questions" and table.columns == ["questions", "model", "majority"]
    assert table.rows == [["all", "50.0%", "25.0%"], ["yes/no", "75.0%", "50.0%"], ["other", "25.0%", "0.0%"]]
    few = VqaResult(2, {"model": VqaAccuracy(0.5, 2, {}, {"is it": 0.5})}).table()
    assert few.rows == [["all", "50.0%"], ["is it", "50.0%"]]
    assert VqaResult(2, {}).table().rows == []
    judged = Nlvr2Result(3, {"model": Nlvr2Metrics(0.5, 0.25, 3, 1)}).table()
    assert judged.columns == ["judged by", "accuracy", "consistency"]
    assert judged.rows == [["model", "50.0%", "25.0%"]]


def test_entries_that_cannot_be_used_are_listed_in_the_run(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = nlvr2_recipe(tmp_path), tmp_path / "run"
    statements = tmp_path / "nlvr2" / "train.json"
    statements.write_text(statements.read_text() + '\n{"identifier": "train-0-0-9", "label": "True"}')
    count = len(statements.read_text().splitlines())
    finetune("nlvr2", recipe, run, checkpoint, "--loop.epochs", "1")
    told = " ".join(capsys.readouterr().err.split())
    assert f"left out: 1 row or part of a row of data.train; listed in {run / 'skipped.jsonl'}" in told
    (entry,) = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
    assert (entry["what"], Path(entry["file"]).name, entry["row"]) == ("left out", "train.json", count)


@dataclass(frozen=True)
class OnceWritten:
    """Data that are written where they are not there, which is recorded."""

    folder: Path

    def filled(self) -> "OnceWritten":
        """Write."""
        if not self.folder.exists():
            with self.folder.with_suffix(".writers").open("a") as writers:
                writers.write("x")
            self.folder.mkdir()
        return self


@dataclass(frozen=True)
class Opened:
    """A recipe of such data."""

    data: OnceWritten
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(cpu=True))

    def go(self) -> None:
        """Open them, as fine-tuning does."""
        with_data(self)  # type: ignore[type-var]


def test_of_several_processes_the_first_writes_the_sample(tmp_path: Path) -> None:
    recipe = Opened(OnceWritten(tmp_path / "sample"))
    assert run_ranks([recipe] * 3) == [0, 0, 0]
    assert (tmp_path / "sample.writers").read_text() == "x"
