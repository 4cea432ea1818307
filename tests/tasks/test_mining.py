"""`truepair judge`, `mine`, and a run that reads the ledger, from end to end on made-up squares."""

import dataclasses
import json
from pathlib import Path

import pytest

from truepair.cli.arguments import read_recipe
from truepair.cli.main import main
from truepair.data.table import PairTable
from truepair.engine.logs.log import read_log
from truepair.judges.evidence import EvidenceModel, EvidenceTables
from truepair.judges.evidence_fit import EvidenceConfig, fit_evidence
from truepair.methods.recipe import PretrainRecipe
from truepair.mining.mine import MiningConfig
from truepair.relations.ledger import read_ledger
from truepair.tasks.mining import mine

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


def recipe_of(squares: Path, folder: Path) -> Path:
    path = folder / "squares.yaml"
    settings = {
        "data": {
            "sources": [str(squares / "pairs.jsonl")],
            "captions": "first",
            "transform": {"size": 16, "rand_augment_ops": 0},
        },
        "text": {"vocab_size": 100, "max_length": 10},
        "model": {
            "options": MODEL,
            "freeze_image": True,
            "freeze_text": True,
            "cache_images": True,
            "cache_captions": True,
            "cache_folder": str(folder / "states"),
        },
        "objectives": {"itm": {"weight": 0.0}, "mlm": {"weight": 0.0}},
        "loop": {"epochs": 1, "batch_size": 8, "workers": 0, "log_every": 1, "cpu": True},
    }
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def test_a_run_reads_what_was_mined(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = str(recipe_of(squares, tmp_path))
    main(["judge", recipe])
    kept = {path.parent.name.split("-")[0]: path.stat().st_size for path in Path("states").glob("*/states.f16")}
    assert kept == {"images": 36 * 32 * 2, "captions": 24 * 32 * 2}  # the mean of each alone
    for _ in range(2):  # the second call replaces what the first found
        main(["mine", recipe, "--judge", "runs/judge", "--high", "0.4", "--low", "0.1"])
    said = " ".join(capsys.readouterr().err.split())
    assert "by the known truth, from 0.4 on" in said and "neighbour search" not in said
    ledger = read_ledger("runs/mined/ledger")
    assert len(list(Path("runs/mined/ledger").glob("*.parquet"))) == 1
    probabilities = ledger["probability"].to_numpy()
    assert 0 < len(ledger) <= 36 * 35 and float(probabilities.min()) >= 0.1
    assert len(set(ledger["judge"].to_pylist())) == 1 and ledger["judge"][0].as_py().startswith("mined:")
    sure = int((probabilities >= 0.4).sum())

    lines: list[str] = []
    opened = read_recipe(PretrainRecipe, [Path(recipe)], [], command="test")
    mine(opened, Path("runs/judge"), Path("runs/searched"), lines.append, MiningConfig(exact_rows=10))
    assert "of 36 rows, those that neighbour search proposed are scored: 100% of the nearest" in lines
    assert len(read_ledger("runs/searched/ledger")) > 0

    rules = "[{detector: recorded, ledger: runs/mined/ledger, zone: match, high: 0.4, action: relabel}]"
    main(["pretrain", recipe, "--relations.rules", rules, "--run-folder", "runs/recorded"])
    said = " ".join(capsys.readouterr().err.split())
    count = f"{len(ledger):,}"
    assert f"{count} of {count} verdicts are about training pairs: {sure:,} to relabel" in said
    epochs = [record for record in read_log(Path("runs/recorded/log.jsonl")) if record["kind"] == "epoch"]
    assert epochs[0]["relations/recorded/relabel"] > 0


def test_files_of_two_judges_are_refused_and_a_former_ledger_stays(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = str(recipe_of(squares, tmp_path))
    words = ["mine", recipe, "--judge", "runs/judge", "--high", "0.4", "--low", "0.1"]
    main(["judge", recipe])
    main(words)
    former = read_ledger("runs/mined/ledger")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("pyarrow.parquet.write_table", full)
        main(words)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("truepair: could not write runs/mined/ledger/verdicts-r00000-000000.parquet: No space left")
    assert read_ledger("runs/mined/ledger") == former

    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target) == Path("runs/judge/refinement.safetensors"):
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Path, "replace", killed)
        patch.setattr("truepair.tasks.mining.fit_evidence", lambda tables, table, config: other_judge(tables, table))
        main(["judge", recipe])
    for call in (words, ["train", recipe, "--run-folder", "runs/x", *ECM]):
        with pytest.raises(SystemExit):
            main(call)
        last = " ".join(capsys.readouterr().err.split())
        assert "is damaged, or of another call than the files beside it; fit the judge again" in last
    assert read_ledger("runs/mined/ledger") == former
    main(["judge", recipe])
    main(words)


ECM = ["--ecm.judge.kind", "evidence", "--ecm.judge.checkpoint", "runs/judge"]


def other_judge(tables: EvidenceTables, table: PairTable) -> EvidenceModel:
    found = fit_evidence(tables, table, EvidenceConfig())
    return dataclasses.replace(found, weights=found.weights + 1)


def test_mistakes_are_one_line(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = str(recipe_of(squares, tmp_path))
    for words, message in (
        (["--judge", "runs/judge"], "give the pairs or a recipe first"),
        ([recipe, "--judge", "runs/judge", "--high", "much"], "--high is 'much'"),
        ([recipe, "--judge", "runs/judge", "--low", "0.9"], "0 < low <= high"),
        ([recipe, "--judge", "runs/judge"], "runs/judge holds no evidence judge"),
        ([recipe, "--judge", "runs/judge", "--top", "9"], "--top says nothing beside --judge"),
        ([recipe, "--high", "0.9"], "--high needs --judge"),
        ([recipe, "--candidates", "0"], "candidates is 0; give 1 or more"),
    ):
        with pytest.raises(SystemExit):
            main(["mine", *words])
        assert message in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main(["judge", recipe, "--model.cache_images", "false", "--model.cache_captions", "false"])
    assert "compares frozen features" in " ".join(capsys.readouterr().err.split())
