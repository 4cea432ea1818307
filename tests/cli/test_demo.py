"""``truepair demo`` on pairs of a user, of which nothing is known."""

import json
from pathlib import Path

import pytest

from tests.tasks.own_pairs import write_list
from truepair.cli.main import main
from truepair.relations.standing import Standing

FAST = ["--loop.epochs", "2", "--loop.batch_size", "16", "--evaluation.rerank", "4"]


@pytest.mark.parametrize("splits", [True, False])
def test_both_ways_on_pairs_without_labels(
    splits: bool, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = write_list(squares, tmp_path / "pairs.csv")
    if not splits:
        file.write_text("".join(f"{line.rpartition(',')[0]}\n" for line in file.read_text().splitlines()))
    main(["demo", "--data", "pairs.csv", *FAST])
    told, said = (" ".join(text.split()) for text in capsys.readouterr())
    assert "nobody has judged any of these pairs" in said and "truepair review runs/demo/mined" in said
    assert ("pairs.csv has no pairs to test on: both runs leave out 20% of the pictures" in said) is not splits
    assert "no truth is known of them" in told and "unknown" not in told
    standing = Standing.load(Path("runs/demo/mined/ledger"))
    assert standing is not None and not standing.answers
    log = Path("runs/demo/false-negatives-managed/log.jsonl").read_text().splitlines()
    assert sum(json.loads(line).get("relations/recorded/smooth", 0) for line in log) > 0
    assert "as declared" in told and "false negatives managed" in told
    assert Path("runs/demo/report.html").stat().st_size > 10_000
