"""A ledger as a judge; the command with one is in tests/tasks/test_blip2_runs.py."""

from pathlib import Path

import pytest
import torch

from tests.judges.given import batch_of
from truepair.data.open import open_pairs
from truepair.errors import DataError
from truepair.judges.base import JudgeConfig, JudgeInputs
from truepair.judges.open import open_judge
from truepair.judges.recorded import RecordedJudge
from truepair.relations.ledger import Ledger, open_index


def ledger_of(folder: Path, images: torch.Tensor, captions: torch.Tensor, probability: float) -> Path:
    with Ledger(folder) as ledger:
        ledger.record(images, captions, torch.full((len(images),), probability), judge="mined:0")
    return folder


def test_a_pair_has_the_probability_of_the_ledger_and_others_none(tmp_path: Path) -> None:
    folder = ledger_of(tmp_path / "ledger", torch.tensor([3, 7]), torch.tensor([7, 3]), 0.75)
    judge = RecordedJudge(open_index(folder), name="recorded")
    batch = batch_of(torch.tensor([7, 1, 3]))
    everyone = torch.ones(3, 3, dtype=torch.bool).nonzero(as_tuple=True)
    expected = torch.tensor([[0, 0, 0.75], [0, 0, 0], [0.75, 0, 0]])
    assert torch.equal(judge.score(batch, *everyone).view(3, 3), expected)
    assert not judge.repeatable


def test_no_ledger_is_said_in_a_line(squares: Path, tmp_path: Path) -> None:
    inputs = JudgeInputs(table=open_pairs(squares / "pairs.jsonl"))
    with pytest.raises(DataError, match=str(tmp_path / "none")):
        open_judge(JudgeConfig(kind="recorded", checkpoint=str(tmp_path / "none")), inputs)
