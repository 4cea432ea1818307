"""The real commands, in their own process, as a user calls them."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from truepair.cli.main import main

MODEL = {
    "image_encoder": {"model_type": "conv_stem", "image_size": 16, "hidden_size": 32, "num_hidden_layers": 1},
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "text_layers": 1,
    "fusion_layers": 1,
    "embed_dim": 16,
    "image_pooling": "mean",
    "text_pooling": "mean",
}


def truepair(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", "from truepair.cli.main import main; main()", *words]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def recipe(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "squares.yaml"
    settings = {
        "data": {
            "sources": [str(squares / "pairs.jsonl")],
            "validation_split": "test",
            "transform": {"size": 16, "rand_augment_ops": 0},
        },
        "text": {"vocab_size": 100, "max_length": 10},
        "model": {"options": MODEL},
        "optimizer": {"learning_rate": 0.003, "warmup_steps": 2},
        "loop": {"epochs": 2, "batch_size": 8, "workers": 0, "log_every": 2, "cpu": True},
    }
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def test_pretrain_then_evaluate(recipe: Path, squares: Path, tmp_path: Path) -> None:
    done = truepair("pretrain", str(recipe), "--loop.epochs", "3", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 steps in" in done.stderr
    assert "usual protocol" in done.stdout
    run = tmp_path / "runs" / "squares"
    assert "epochs: 3" in (run / "recipe.yaml").read_text()
    again = truepair("pretrain", str(run / "recipe.yaml"), "--run-folder", str(run), folder=tmp_path)
    assert "going on from" in again.stderr
    assert "(trained in an earlier call); model in" in again.stderr
    assert again.returncode == 0
    measured = truepair("evaluate", str(run / "model"), "--data", str(squares / "pairs.jsonl"), folder=tmp_path)
    assert measured.returncode == 0, measured.stderr
    assert "test: 12 pictures, 12 captions, 24 distinct texts" in " ".join(measured.stdout.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrian"], "there is no command 'pretrian' (did you mean 'pretrain'?)"),
        (["pretrain", "nothing.yaml"], "there is no recipe nothing.yaml"),
        (["pretrain", "demmo"], "there is no recipe demmo (did you mean 'demo'?)"),
        (["pretrain", "--loop.epochs", "3"], "give the recipe first"),
        (["pretrain", "RECIPE", "--loop.epoch", "3"], "no option --loop.epoch (did you mean 'loop.epochs'?)"),
        (["pretrain", "RECIPE", "--loop.epochs", "0"], "loop.epochs is 0; give 1 or more"),
        (["pretrain", "RECIPE", "--loop.epochs", "many"], "loop.epochs"),
        (["pretrain", "RECIPE", "--data.sources", "[missing.jsonl]"], "missing.jsonl"),
        (["pretrain", "RECIPE", "--model.options.text_layer", "2"], "did you mean 'text_layers'?"),
        (["pretrain", "RECIPE", "--run-folder"], "--run-folder needs a value"),
        (["evaluate", "nowhere"], "no model in nowhere, neither a folder nor a hub name in reach"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    message: str,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([str(recipe) if word == "RECIPE" else word for word in words])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("truepair: ")
    assert message in last


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--help"], "pretrain"),
        (["--version"], "truepair 0."),
        (["pretrain", "--help"], "demo"),
        (["pretrain", "RECIPE", "--help"], "--loop.epochs"),
        (["evaluate", "--help"], "MODEL"),
        (["evaluate"], "MODEL"),
        (["demo", "--help"], "--full"),
    ],
)
def test_help(words: list[str], text: str, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main([str(recipe) if word == "RECIPE" else word for word in words])
    assert text in capsys.readouterr().out


def test_the_module_is_the_command(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "truepair.cli.main", "--version"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.stdout.startswith("truepair ")


def test_two_ranks_train_one_model(recipe: Path, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text("from truepair.cli.main import main\nmain()\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29671", str(script)]
    words = ["pretrain", str(recipe), "--loop.batch_size", "4", "--run-folder", "run"]
    done = subprocess.run([*launch, *words], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "step"] == [
        2,
        4,
        6,
        8,
    ]  # 4 global batches of 8 an epoch
    assert json.loads((tmp_path / "run" / "retrieval.json").read_text())["images"] == 12
