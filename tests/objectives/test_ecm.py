import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.errors import ConfigError
from truepair.objectives.ecm import Connections, Zone, ZoneConfig, connect, zones_of
from truepair.objectives.itm import HardNegatives, hardest_negatives
from truepair.relations.actions import Relabel
from truepair.relations.batch import BatchRelations


def rows(connections: Connections) -> list[tuple[int, int, int]]:
    """(image, text, label) of the valid ITM rows."""
    pairs = connections.pairs
    table = torch.stack([pairs.images, pairs.texts, pairs.labels], dim=1)
    return [tuple(row) for row in table[pairs.valid].tolist()]


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (ZoneConfig(0.5, 0.8), [Zone.BELOW, Zone.BETWEEN, Zone.BETWEEN, Zone.ABOVE, Zone.ABOVE, Zone.NONE]),
        (ZoneConfig.official(0.5, 0.8), [Zone.BELOW, Zone.NONE, Zone.BETWEEN, Zone.NONE, Zone.ABOVE, Zone.NONE]),
        (ZoneConfig(0.5, 0.5), [Zone.BELOW, Zone.ABOVE, Zone.ABOVE, Zone.ABOVE, Zone.ABOVE, Zone.NONE]),
    ],
)
def test_ties_with_the_thresholds(config: ZoneConfig, wanted: list[Zone]) -> None:
    scores = torch.tensor([0.49, 0.5, 0.6, 0.8, 0.9, math.nan], dtype=torch.float64)
    assert zones_of(scores, config).tolist() == [int(zone) for zone in wanted]


CANDIDATES = HardNegatives(
    i2t=torch.tensor([[1, 2], [0, 3], [3, 0], [2, 1]]),
    t2i=torch.tensor([[1, 3], [0, 2], [0, 3], [2, 0]]),
)
I2T = torch.tensor([[0.9, 0.0], [0.6, 0.7], [0.1, 0.0], [0.6, 0.2]])  # match, nobody knows twice, negative, swap
T2I = torch.tensor(
    [[0.1, 0.0], [0.9, 0.0], [0.65, 0.95], [0.3, 0.0]]
)  # negative, the same match, match at second, neg.


def test_our_rules() -> None:
    found = connect(CANDIDATES, I2T, T2I, ZoneConfig())
    own = [(i, i, 1) for i in range(4)]
    by_text = [(1, 0, 0), (0, 1, 1), (3, 2, 1), (2, 3, 0)]
    by_image = [(2, 3, 0), (3, 1, 0)]  # (0, 1) was counted by the text's side; nothing is known of image 1
    assert rows(found) == own + by_text + by_image
    wanted = torch.eye(4)
    wanted[0, 1] = wanted[3, 2] = 1
    assert torch.equal(found.i2t_positives.dense(), wanted)
    assert torch.equal(found.t2i_positives.dense(), wanted.T)
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
    found = connect(CANDIDATES, I2T[:, 0], T2I[:, 0], ZoneConfig.official())
    natural = rows(found)
    assert natural[4:8] == [(1, 0, 0), (0, 1, 1), (3, 2, 0), (2, 3, 0)]  # the second-hardest is a negative unseen
    assert natural[8:] == [(0, 1, 1), (1, 3, 0), (2, 3, 0), (3, 1, 0)]  # the match once more
    order = found.official_order().tolist()
    assert [natural[i] for i in order] == (
        [(i, i, 1) for i in range(4)]
        + [(1, 0, 0), (2, 3, 0), (2, 3, 0)]  # negatives: text side, image side
        + [(0, 1, 1), (0, 1, 1)]  # conversions
        + [(3, 2, 0), (1, 3, 0), (3, 1, 0)]  # second-hardest
    )
    only_own_row = torch.eye(4)
    only_own_row[0, 1] = 1
    assert torch.equal(found.i2t_positives.dense(), only_own_row)
    assert torch.equal(found.t2i_positives.dense(), only_own_row.T)  # text 1 found image 0 itself
    assert len(found.converted) == 2


def test_official_targets_are_one_sided() -> None:
    found = connect(CANDIDATES, torch.zeros(4), T2I[:, 0], ZoneConfig.official())
    assert torch.equal(found.i2t_positives.dense(), torch.eye(4))
    assert found.t2i_positives.dense()[1, 0] == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10), st.integers(0, 2**31), st.booleans(), st.booleans())
def test_a_match_is_never_also_a_negative(size: int, seed: int, symmetric: bool, judge_second: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.rand(size, size, generator=generator) < 0.7
    candidates = hardest_negatives(torch.randn(size, size, generator=generator), allowed)
    judge = torch.rand(size, size, generator=generator)  # one judge: a pair has one score, whoever asks
    own = torch.arange(size).unsqueeze(1)
    scores = [judge[own, candidates.i2t], judge[candidates.t2i, own]]
    found = connect(candidates, *scores, ZoneConfig(symmetric=symmetric, judge_second=judge_second))
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
        assert torch.equal(found.i2t_positives.dense(), found.t2i_positives.dense().T)
        assert all(found.i2t_positives.dense()[pair] == 1 for pair in listed)


@pytest.mark.parametrize("config", [ZoneConfig(), ZoneConfig.official()])
def test_relations_give_the_same_targets(config: ZoneConfig) -> None:
    found = connect(CANDIDATES, I2T, T2I, config)
    relations = BatchRelations(torch.arange(4), torch.arange(4), symmetric=config.symmetric)
    relations = relations.adding(found.detection, Relabel())
    assert torch.equal(relations.positives("i2t").dense(), found.i2t_positives.dense())
    assert torch.equal(relations.positives("t2i").dense(), found.t2i_positives.dense())
    assert torch.equal(relations.matches().dense(), found.converted.dense())


def test_wrong_thresholds_say_so() -> None:
    with pytest.raises(ConfigError, match="low <= high"):
        ZoneConfig(0.8, 0.5)
