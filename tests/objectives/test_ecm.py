import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.official_ecm import OFFICIAL, official_order, official_zones, positives
from truepair.errors import ConfigError
from truepair.objectives.ecm import Connections, connect
from truepair.objectives.itm import HardNegatives, hardest_negatives
from truepair.relations.actions import Relabel
from truepair.relations.batch import BatchRelations
from truepair.relations.zones import Zone, Zones


def rows(connections: Connections) -> list[tuple[int, int, int]]:
    """(image, text, label) of the valid ITM rows."""
    pairs = connections.pairs
    table = torch.stack([pairs.images, pairs.texts, pairs.labels], dim=1)
    return [tuple(row) for row in table[pairs.valid].tolist()]


@pytest.mark.parametrize(
    ("zones", "wanted"),
    [
        (Zones(0.5, 0.8), [Zone.NEGATIVE, Zone.DOUBTFUL, Zone.DOUBTFUL, Zone.MATCH, Zone.MATCH, Zone.NONE]),
        (official_zones(), [Zone.NEGATIVE, Zone.NONE, Zone.DOUBTFUL, Zone.NONE, Zone.MATCH, Zone.NONE]),
        (Zones(0.5, 0.5), [Zone.NEGATIVE, Zone.MATCH, Zone.MATCH, Zone.MATCH, Zone.MATCH, Zone.NONE]),
    ],
)
def test_ties_with_the_thresholds(zones: Zones, wanted: list[Zone]) -> None:
    scores = torch.tensor([0.49, 0.5, 0.6, 0.8, 0.9, math.nan], dtype=torch.float64)
    assert zones.of(scores).tolist() == [int(zone) for zone in wanted]


CANDIDATES = HardNegatives(
    i2t=torch.tensor([[1, 2], [0, 3], [3, 0], [2, 1]]),
    t2i=torch.tensor([[1, 3], [0, 2], [0, 3], [2, 0]]),
)
I2T = torch.tensor([[0.9, 0.0], [0.6, 0.7], [0.1, 0.0], [0.6, 0.2]])  # match, nobody knows twice, negative, swap
T2I = torch.tensor(
    [[0.1, 0.0], [0.9, 0.0], [0.65, 0.95], [0.3, 0.0]]
)  # negative, the same match, match at second, neg.


def test_our_rules() -> None:
    found = connect(CANDIDATES, I2T, T2I, Zones())
    own = [(i, i, 1) for i in range(4)]
    by_text = [(1, 0, 0), (0, 1, 1), (3, 2, 1), (2, 3, 0)]
    by_image = [(2, 3, 0), (3, 1, 0)]  # (0, 1) was counted by the text's side; nothing is known of image 1
    assert rows(found) == own + by_text + by_image
    wanted = torch.eye(4)
    wanted[0, 1] = wanted[3, 2] = 1
    assert torch.equal(positives(found, "i2t", symmetric=True).dense(), wanted)
    assert torch.equal(positives(found, "t2i", symmetric=True).dense(), wanted.T)
    assert list(zip(found.converted.rows.tolist(), found.converted.columns.tolist(), strict=True)) == [(0, 1), (3, 2)]
    counts = {name: int(count) for name, count in found.counts.items() if count}
    assert counts == {
        "t2i/below": 2,
        "t2i/above": 1,
        "t2i/between": 1,
        "t2i/second_converted": 1,
        "i2t/below": 1,
        "i2t/above": 1,
        "i2t/between": 2,
        "i2t/second_negative": 1,
        "i2t/left_out": 1,
    }


def test_official_rules() -> None:
    found = connect(CANDIDATES, I2T[:, 0], T2I[:, 0], official_zones(), **OFFICIAL)
    natural = rows(found)
    assert natural[4:8] == [(1, 0, 0), (0, 1, 1), (3, 2, 0), (2, 3, 0)]  # the second-hardest is a negative unseen
    assert natural[8:] == [(0, 1, 1), (1, 3, 0), (2, 3, 0), (3, 1, 0)]  # the match once more
    order = official_order(found, I2T[:, 0], T2I[:, 0], official_zones()).tolist()
    assert [natural[i] for i in order] == (
        [(i, i, 1) for i in range(4)]
        + [(1, 0, 0), (2, 3, 0), (2, 3, 0)]  # negatives: text side, image side
        + [(0, 1, 1), (0, 1, 1)]  # conversions
        + [(3, 2, 0), (1, 3, 0), (3, 1, 0)]  # second-hardest
    )
    only_own_row = torch.eye(4)
    only_own_row[0, 1] = 1
    assert torch.equal(positives(found, "i2t", symmetric=False).dense(), only_own_row)
    assert torch.equal(positives(found, "t2i", symmetric=False).dense(), only_own_row.T)  # text 1 found image 0 itself
    assert len(found.converted) == 2


def test_official_targets_are_one_sided() -> None:
    found = connect(CANDIDATES, torch.zeros(4), T2I[:, 0], official_zones(), **OFFICIAL)
    assert torch.equal(positives(found, "i2t", symmetric=False).dense(), torch.eye(4))
    assert positives(found, "t2i", symmetric=False).dense()[1, 0] == 1


@settings(max_examples=60)
@given(st.integers(1, 10), st.integers(0, 2**31), st.booleans(), st.booleans())
def test_a_match_is_never_also_a_negative(size: int, seed: int, symmetric: bool, judge_second: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.rand(size, size, generator=generator) < 0.7
    candidates = hardest_negatives(torch.randn(size, size, generator=generator), allowed)
    judge = torch.rand(size, size, generator=generator)  # one judge: a pair has one score, whoever asks
    own = torch.arange(size).unsqueeze(1)
    scores = [judge[own, candidates.i2t], judge[candidates.t2i, own]]
    found = connect(candidates, *scores, Zones(), judge_second=judge_second)
    labels: dict[tuple[int, int], set[int]] = {}
    for image, text, label in rows(found)[size:]:
        labels.setdefault((image, text), set()).add(label)
        assert image != text and allowed[image, text]
        if judge_second:
            assert label == (1 if judge[image, text] >= 0.8 else 0)
            assert judge[image, text] >= 0.8 or judge[image, text] < 0.5
    if judge_second:
        assert all(len(found_labels) == 1 for found_labels in labels.values())
    matches = [pair for pair, found_labels in labels.items() if 1 in found_labels]
    listed = list(zip(found.converted.rows.tolist(), found.converted.columns.tolist(), strict=True))
    assert sorted(matches) == sorted(listed)
    if symmetric:
        i2t, t2i = (positives(found, side, symmetric=True).dense() for side in ("i2t", "t2i"))
        assert torch.equal(i2t, t2i.T)
        assert all(i2t[pair] == 1 for pair in listed)


@pytest.mark.parametrize(("zones", "rules"), [(Zones(), {}), (official_zones(), OFFICIAL)])
def test_relations_have_the_matches_of_either_side(zones: Zones, rules: dict[str, bool]) -> None:
    found = connect(CANDIDATES, I2T, T2I, zones, **rules)
    by_image, by_text = (found.matches.found_by(side) for side in ("i2t", "t2i"))
    assert len(by_image) + len(by_text) == len(found.matches)
    for side, of_side in (("i2t", by_image), ("t2i", by_text)):
        wanted = torch.eye(4)
        wanted[of_side.rows, of_side.columns] = 1
        got = positives(found, side, symmetric=False).dense()
        assert torch.equal(got if side == "i2t" else got.T, wanted)
    relations = BatchRelations(4).adding("judge", found.matches, Relabel())
    assert torch.equal(relations.matches().dense(), found.converted.dense())


def test_wrong_thresholds_say_so() -> None:
    with pytest.raises(ConfigError, match="low <= high"):
        Zones(0.8, 0.5)
