"""`truepair train RECIPE mined` on a ledger that says what it stands on: what is printed, what page and card keep."""

from pathlib import Path

import pytest
import torch

from tests.tasks.test_mining import recipe_of
from truepair.cli.main import main
from truepair.data.open import open_pairs
from truepair.relations.ledger import Ledger
from truepair.relations.standing import Certificate, Standing

JUDGE = "reviewed:0123456789ab"
CERTIFICATE = Certificate(
    precision=0.9, confidence=0.95, threshold=0.8, pairs=20, asked=14, matched=14, lower=0.95, judge=JUDGE
)
SENTENCE = "of the 20 pairs above 0.8, at least 90% match (95% confidence; 14 of 14 of a random sample)"


@pytest.fixture
def recipe(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe on squares, in a folder of its own where 20 pairs that match have 0.9 in ``runs/mined/ledger``."""
    monkeypatch.chdir(tmp_path)
    train = open_pairs(str(squares / "pairs.jsonl"), split="train")
    groups, captions = train.values("group"), train.values("caption_ids")
    texts = train.values("captions")
    cells = [
        (i, j) for i in range(len(train)) for j in range(len(train)) if groups[i] == groups[j] and texts[i] != texts[j]
    ][:20]
    with Ledger("runs/mined/ledger") as ledger:
        images = torch.tensor([int(train.image_ids[i]) for i, _ in cells])
        numbers = torch.tensor([captions[j][0] for _, j in cells])
        ledger.record(images, numbers, torch.full((len(cells),), 0.9), judge=JUDGE)
    return str(recipe_of(squares, tmp_path))


def train(recipe: str, *words: str) -> None:
    main(["train", recipe, "mined", "--run-folder", "runs/a", *words])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_a_certificate_is_printed_and_kept_by_page_and_card(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    Standing(judge=JUDGE, answers=200, certificate=CERTIFICATE).save(Path("runs/mined/ledger"))
    train(recipe, "--report")
    printed = said(capsys)
    assert printed.index(SENTENCE) < printed.index("pairs/s")
    assert "from 0.8 on its pairs are matches" in printed
    assert "20 verdicts are about training pairs: 0 by people to relabel, 0 by people to keep" in printed
    assert "20 by judges to relabel, 0 by judges to smooth" in printed
    card = Path("runs/a/model/README.md").read_text()
    assert f"| judge `{JUDGE}` in the ledger `mined` | 20 pairs, zone match | {SENTENCE} |" in card
    page = Path("runs/a/report.html").read_text()
    assert SENTENCE in page and "Precision of runs/mined/ledger" in page
    Standing(judge=JUDGE, answers=300).save(Path("runs/mined/ledger"))
    train(recipe)  # again, when its ledger has been reviewed further
    printed = said(capsys)
    assert "runs/mined/ledger has changed since this run began" in printed and SENTENCE in printed


def test_what_nobody_judged_is_refused_before_anything_is_read(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    Standing(judge=JUDGE).save(Path("runs/mined/ledger"))
    with pytest.raises(SystemExit):
        train(recipe, "--data.sources", "[nowhere.csv]")
    assert said(capsys) == (
        "truepair: nobody has judged any pair of runs/mined/ledger, so none becomes a match: answer some in 'truepair "
        "review runs/mined', or give --unjudged to go on with shares of the target alone"
    )
    train(recipe, "--unjudged")
    printed = said(capsys)
    assert "no precision stated: nobody has judged any of its pairs" in printed and "(--unjudged)" in printed
    assert "20 by judges to smooth" in printed
    card = Path("runs/a/model/README.md").read_text()
    assert "zone match | no precision stated: nobody has judged any of its pairs |" in card


def test_a_ledger_that_says_nothing_is_read_as_before(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    train(recipe)
    printed = said(capsys)
    assert "20 verdicts are about training pairs: 20 to relabel, 0 to smooth" in printed
    assert "precision stated" not in printed and not Path("runs/a/heard").exists()
