import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.judges.given import GivenJudge, batch_of
from truepair.methods.ecm import judge_candidates
from truepair.objectives.ecm import connect
from truepair.objectives.itm import HardNegatives, hardest_negatives
from truepair.relations.zones import Zones

ZONES = Zones()


def slow_scores(
    candidates: HardNegatives, table: torch.Tensor, judge_second: bool
) -> tuple[list[list[float]], list[list[float]], set[tuple[int, int]]]:
    """Candidate by candidate, as the rules read."""
    asked: set[tuple[int, int]] = set()
    sides = []
    for is_image, side in ((True, candidates.i2t), (False, candidates.t2i)):
        rows = []
        for own, (first, second) in enumerate(side.tolist()):
            row = [float("nan"), float("nan")]
            for place, other in enumerate((first, second)):
                if other < 0:
                    continue
                if place == 1 and not (judge_second and ZONES.low <= row[0] < ZONES.high):
                    continue
                cell = (own, other) if is_image else (other, own)
                asked.add(cell)
                row[place] = float(table[cell])
            rows.append(row)
        sides.append(rows)
    return sides[0], sides[1], asked


@settings(max_examples=50)
@given(size=st.integers(1, 9), seed=st.integers(0, 10_000), judge_second=st.booleans())
def test_scores_are_those_of_the_rules_and_no_cell_is_asked_twice(size: int, seed: int, judge_second: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.rand(size, size, generator=generator) < 0.7
    candidates = hardest_negatives(torch.rand(size, size, generator=generator), allowed)
    judge = GivenJudge(torch.rand(size, size, generator=generator))
    found_i2t, found_t2i, said = judge_candidates(
        candidates, batch_of(torch.arange(size)), judge, ZONES, judge_second=judge_second
    )
    i2t, t2i, asked = slow_scores(candidates, judge.table, judge_second)
    torch.testing.assert_close(found_i2t, torch.tensor(i2t), equal_nan=True)
    torch.testing.assert_close(found_t2i, torch.tensor(t2i), equal_nan=True)
    assert len(judge.asked) == len(set(judge.asked)) and set(judge.asked) == asked
    cells = list(zip(said.rows.tolist(), said.columns.tolist(), strict=True))
    assert cells == sorted(asked)
    assert said.values.tolist() == pytest.approx([float(judge.table[cell]) for cell in cells])
    connect(candidates, found_i2t, found_t2i, ZONES)  # takes them as they are
