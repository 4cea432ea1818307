import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.judges.given import GivenJudge
from tests.judges.tiny_judges import preprocessing_of
from truepair.data.open import open_pairs
from truepair.data.pairs import PairBatch, PairDataset
from truepair.errors import ConfigError
from truepair.judges.coverage import Coverage, check_coverage


class RowJudge(GivenJudge):
    """Scores own pairs by the number of their row."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__(scores)
        self.rows: list[int] = []

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        assert images.tolist() == texts.tolist() == list(range(len(batch)))
        self.rows += batch.source_index.tolist()
        return self.table[batch.source_index]


def coverage_of(squares: Path, judge: RowJudge, sample: int, least: float) -> Coverage:
    table = open_pairs(squares / "pairs.jsonl")
    dataset, collator = PairDataset(table, captions="first"), preprocessing_of(table).collator()
    return check_coverage(judge, dataset, collator, high=0.8, least=least, sample=sample, batch_size=7)


def test_the_share_of_known_pairs_that_pass(squares: Path) -> None:
    scores = torch.full((48,), 0.25)
    scores[:12] = 0.8
    judge = RowJudge(scores)
    found = coverage_of(squares, judge, sample=1000, least=0.25)
    assert sorted(judge.rows) == list(range(48))
    assert (found.asked, found.passed, found.share, found.warning) == (48, 12, 0.25, None)
    assert found.figures() == {"judge_coverage": 0.25, "judge_known_median": 0.25}


def test_a_judge_that_recognises_little_is_warned_of_in_one_line(squares: Path) -> None:
    judge = RowJudge(torch.full((48,), 0.5))
    found = coverage_of(squares, judge, sample=10, least=0.2)
    assert found.warning is not None and "\n" not in found.warning
    assert re.search(r"given passes only 0% of 10 known pairs at 0\.8 .*lower ecm\.zones\.high", found.warning)
    assert len(judge.rows) == len(set(judge.rows)) == 10
    with pytest.raises(ConfigError, match="says nothing"):
        coverage_of(squares, judge, sample=0, least=0.2)
