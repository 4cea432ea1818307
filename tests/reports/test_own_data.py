"""The pages of runs on pairs of a user's own, of which nobody knows more than what is declared."""

import json
import re
from pathlib import Path

import pytest

from tests.tasks.own_pairs import save_clip, write_list
from truepair.cli.main import main

SHORT = ["--loop.epochs", "2", "--loop.batch_size", "8", "--loop.workers", "0", "--loop.cpu", "true"]


@pytest.fixture
def pairs(squares: Path, tmp_path: Path) -> str:
    return str(write_list(squares, tmp_path / "pairs.csv"))


def test_what_a_rule_found_and_what_nobody_declared(
    pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, run = str(save_clip(tmp_path / "clip")), tmp_path / "run"
    rules = [{"detector": "guide", "margin": 0.05, "action": "mask"}]
    words = ["--model.checkpoint", model, "--relations.guide_model", model, "--relations.rules", json.dumps(rules)]
    main(["train", "clip", pairs, *words, *SHORT, "--run-folder", str(run), "--report"])
    printed = capsys.readouterr()
    epochs = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    masked = sum(record.get("relations/guide/mask", 0) for record in epochs if record["kind"] == "epoch")
    assert masked > 0
    found = f"{masked:,.0f} pairs of batches, over all epochs"
    assert f"rule guide, mask: {found}" in " ".join(printed.err.split())
    assert "any true match" not in printed.out and "usual protocol" in printed.out
    page = (run / "report.html").read_text()
    assert "Rule guide, mask" in page and found in page
    marks = set(re.findall(r'<span class="mark (\w+)">', page.partition('id="examples"')[2].partition("</section>")[0]))
    assert marks == {"own", "unknown"} and "not declared" in page
    assert ">usual protocol</th>" in page and ">any true match</th>" not in page


def test_finetune_writes_a_page(pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "data": {
            "sources": [pairs],
            "captions": "first",
            "transform": {"size": 0, "normalisation": "encoder", "rand_augment_ops": 0},
        },
        "text": {"tokenizer": "model", "max_length": 0},
        "model": {"checkpoint": str(save_clip(tmp_path / "clip")), "image_checkpoint": None, "text_checkpoint": None},
        "objectives": {"itm": {"weight": 0.0}, "mlm": {"weight": 0.0}},
        "evaluation": {"rerank": 0},
    }
    (tmp_path / "clip.yaml").write_text(json.dumps(settings))  # JSON is YAML
    words = ["finetune", "retrieval", str(tmp_path / "clip.yaml"), *SHORT, "--run-folder", str(tmp_path / "run")]
    main(words)
    assert not (tmp_path / "run/report.html").exists()
    main([*words, "--report"])  # the finished run
    assert f"the page of what it found: {tmp_path / 'run/report.html'}" in capsys.readouterr().err
    page = (tmp_path / "run/report.html").read_text()
    assert "truepair finetune retrieval" in page and 'id="results"' in page and 'id="suspects"' in page
