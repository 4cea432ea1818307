"""`truepair mine` with judges that are asked, and with a column of groups."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.judges.tiny_judges import save_blip
from tests.judges.tiny_vlms import save_llava
from tests.tasks.own_pairs import write_list
from tests.tasks.test_unlabelled import encoders, said
from truepair.cli.main import main
from truepair.data.open import open_pairs
from truepair.errors import ConfigError
from truepair.mining.candidates import Candidates
from truepair.relations.ledger import read_ledger
from truepair.relations.standing import Standing
from truepair.review.session import ReviewSession

__all__ = ["encoders"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def with_column(file: Path, name: str, values: list[str]) -> Path:
    """The list with one column more."""
    with file.open(newline="") as opened:
        header, *rows = csv.reader(opened)
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([[*header, name], *([*row, values[n]] for n, row in enumerate(rows))])
    return file


def test_judges_are_asked_about_the_strongest_and_asked_once(
    squares: Path, tmp_path: Path, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_list(squares, tmp_path / "pairs.csv")
    table = open_pairs(pairs)
    vlm, blip = save_llava(tmp_path / "llava", table), save_blip(tmp_path / "blip", table)
    asked = ["--ask", f"vlm:{vlm}", "--ask", f"blip:{blip}"]
    main(["mine", str(pairs), *encoders, "--candidates", "30", *asked, "--ask-most", "10"])
    lines = said(capsys)
    assert f"vlm {vlm} was asked about 10 of the 10 strongest candidates; the other 20 have no such signal" in lines
    assert f"blip {blip} was asked about 10 of the 10 strongest candidates" in lines
    assert "the order before anyone has answered does not" in lines
    found = Candidates.load(Path("runs/mined"))
    columns = [found.columns(family)[0] for family in ("vlm", "itm")]
    assert [found.names[column] for column in columns] == [f"vlm/vlm {vlm}", f"itm/blip {blip}"]
    assert np.isfinite(found.signals[:10, columns]).all() and np.isnan(found.signals[10:, columns]).all()
    main(["mine", str(pairs), *encoders, "--candidates", "30", *asked, "--ask-most", "12"])
    lines = said(capsys)
    assert "was asked about 2 of the 12 strongest candidates and had been about 10 before; the other 18" in lines
    facts = json.loads(Path("runs/mined/mining.json").read_text())
    assert facts["ask"] == [f"vlm:{vlm}", f"blip:{blip}"] and facts["ask_most"] == 12


def test_groups_label_candidates_fit_the_judge_and_are_no_persons_answers(
    squares: Path, tmp_path: Path, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = [json.loads(line)["group"] for line in (squares / "pairs.jsonl").read_text().splitlines()]
    some = [kind if number % 5 else "" for number, kind in enumerate(kinds)]
    pairs = with_column(write_list(squares, tmp_path / "pairs.csv"), "sku", some)
    main(["mine", str(pairs), *encoders, "--group", "sku"])
    lines = said(capsys)
    assert "by column 'sku'" in lines and "a judge was fitted on" in lines
    assert "nobody but column 'sku' has said of any pair whether it matches, so no precision is stated;" in lines
    standing, ledger = Standing.load(Path("runs/mined/ledger")), read_ledger("runs/mined/ledger")
    assert standing is not None and standing.judged and standing.answers == 0 and standing.labels > 50
    assert standing.judge.startswith("grouped:") and set(ledger["judge"].to_pylist()) == {standing.judge}
    found = Candidates.load(Path("runs/mined"))
    assert bool((np.diff(found.prior) <= 0).all()) and Path("runs/mined/labels.parquet").is_file()
    with ReviewSession(Path("runs/mined"), say=lambda line: None) as session:
        for answer in ("yes", "no"):
            question = session.ask("Ann")
            assert question is not None
            session.answer("Ann", question.key, answer)
        reviewed = session.finish()
    assert reviewed.labels == standing.labels and reviewed.answers == 2
    Path("runs/mined/answers.jsonl").unlink()
    main(["mine", str(pairs), *encoders])
    assert not Path("runs/mined/labels.parquet").exists()
    again = Standing.load(Path("runs/mined/ledger"))
    assert again is not None and not again.judged


def test_mistakes_are_named_before_the_work(
    squares: Path, tmp_path: Path, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_list(squares, tmp_path / "pairs.csv")
    for words, text in (
        (["--group", "sku"], "has no column 'sku' of groups; other columns of pairs: none"),
        (["--ask", "vlm"], "the judge to ask is 'vlm'; give vlm:NAME"),
        (["--ask", "blip:x", "--ask", "blip:x"], "the judge blip:x is to be asked twice; name it once"),
        (["--ask", "vlm:x", "--ask-prompt", "?"], "put {caption} where the caption goes"),
        (["--ask-most", "0"], "ask_most is 0; give 1 or more"),
        (["--judge", "x", "--group", "sku"], "--group says nothing beside --judge"),
    ):
        named = [] if "--judge" in words else encoders
        with pytest.raises((SystemExit, ConfigError)) as caught:
            main(["mine", str(pairs), *named, *words])
        assert text in str(caught.value) + said(capsys), words
