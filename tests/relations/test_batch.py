import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.errors import ConfigError
from truepair.objectives.contrastive import Direction, contrastive_loss
from truepair.relations.actions import Action, Keep, Mask, Relabel, Reweight, Skip, Smooth
from truepair.relations.batch import BatchRelations
from truepair.relations.detectors import GuideSimilarity, SameCaption, SameImage, Signals
from truepair.relations.pairs import PairSet
from truepair.relations.rules import Rule, apply_rules


def batch(size: int, symmetric: bool = True) -> BatchRelations:
    return BatchRelations(size, (), symmetric)


def found(cells: list[tuple[int, int]], size: int, score: float = 1.0, sides: str = "both") -> PairSet:
    index = torch.tensor(cells, dtype=torch.long).reshape(-1, 2)
    every = torch.ones(len(cells), dtype=torch.bool)
    sides_of = (every & (sides != "text"), every & (sides != "image")) if sides != "both" else (None, None)
    return PairSet(index[:, 0], index[:, 1], torch.full((len(cells),), score), (size, size), *sides_of)


NAN = math.nan
#                    share, weight (NaN: none of its own), may be an ITM negative, is an ITM match
CONSEQUENCES = {
    Keep(): (0.0, NAN, True, False),
    Mask(): (0.0, 0.0, False, False),
    Relabel(): (1.0, NAN, False, True),
    Reweight(): (0.0, 0.4, True, False),
    Reweight(floor=0.5): (0.0, 0.5, True, False),
    Skip(): (0.0, NAN, False, False),
    Smooth(share=0.5): (0.3, NAN, False, False),
}


@pytest.mark.parametrize("action", CONSEQUENCES, ids=lambda action: repr(action))
def test_what_each_action_does(action: Action) -> None:
    share, weight, allowed, match = CONSEQUENCES[action]
    relations = batch(3).adding("test", found([(0, 2)], 3, score=0.6), action)
    for side, cell in (("i2t", (0, 2)), ("t2i", (2, 0))):
        wanted = torch.eye(3)
        wanted[cell] = share
        torch.testing.assert_close(relations.positives(side).dense(), wanted)
        weights = relations.weights(side).dense(fill=NAN)
        assert torch.equal(
            weights.isnan(),
            torch.ones(3, 3)
            .index_put((torch.tensor(cell[0]), torch.tensor(cell[1])), torch.tensor(float(math.isnan(weight))))
            .bool(),
        )
        if not math.isnan(weight):
            assert weights[cell] == pytest.approx(weight)
    may = ~torch.eye(3, dtype=torch.bool)
    may[0, 2] = allowed
    assert torch.equal(relations.allowed(), may)
    assert relations.matches().mask().nonzero().tolist() == ([[0, 2]] if match else [])


def test_first_rule_wins() -> None:
    signals = Signals(
        image_ids=torch.tensor([1, 1, 2]), caption_ids=torch.arange(3), caption_keys=torch.tensor([5, 5, 5])
    )
    relations = apply_rules([Rule(SameImage(), Relabel()), Rule(SameCaption(), Mask())], signals)
    assert relations.positives("i2t").dense().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert relations.weights("i2t").dense(fill=7).tolist() == [[7, 7, 0], [7, 7, 0], [0, 0, 7]]
    assert not relations.allowed().any()
    assert relations.counts() == {"same_image/relabel": 2, "same_caption/mask": 6}


def test_own_pairs_stay_positive_whatever_is_found() -> None:
    relations = batch(2).adding("test", found([(0, 0), (1, 1), (0, 1)], 2), Mask())
    assert relations.positives("i2t").dense().tolist() == [[1, 0], [0, 1]]
    assert relations.weights("i2t").dense(fill=7).tolist() == [[7, 0], [7, 7]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_one_sided_findings(symmetric: bool) -> None:
    relations = batch(3, symmetric).adding("test", found([(0, 1)], 3, sides="text"), Relabel())
    assert relations.positives("t2i").dense()[1, 0] == 1
    assert relations.positives("i2t").dense()[0, 1] == (1 if symmetric else 0)
    assert len(relations.matches()) == 1  # in ITM it is a match in any case
    assert not relations.allowed()[0, 1]


@settings(max_examples=60)
@given(st.integers(1, 7), st.integers(0, 2**20), st.booleans())
def test_a_pair_is_never_both_positive_and_negative(size: int, seed: int, symmetric: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    relations = batch(size, symmetric)
    for action in (Relabel(), Mask(), Reweight(), Smooth(), Skip()):
        chosen = torch.rand(size, size, generator=generator) < 0.25
        sides = torch.rand(2, int(chosen.sum()), generator=generator) < 0.5
        pairs = PairSet.from_dense(torch.rand(size, size, generator=generator), where=chosen)
        found_pairs = PairSet(pairs.rows, pairs.columns, pairs.values, pairs.shape, sides[0], sides[1] | ~sides[0])
        relations = relations.adding("test", found_pairs, action)
    for side in ("i2t", "t2i"):
        assert not (relations.positives(side).mask() & relations.weights(side).mask()).any()
        torch.testing.assert_close(relations.positives(side).normalised().row_sums(), torch.ones(size))
        oriented = relations.allowed() if side == "i2t" else relations.allowed().T
        assert not (relations.positives(side).mask() & oriented).any()
    if symmetric:
        assert torch.equal(relations.positives("i2t").dense(), relations.positives("t2i").dense().T)
    features = torch.nn.functional.normalize(torch.randn(size, 4, generator=generator), dim=1)
    directions = [Direction.of_relations(relations, side, smoothing=0.5) for side in ("i2t", "t2i")]
    loss = contrastive_loss(features, features, 1e-3, rows=directions[0], columns=directions[1]).loss
    assert loss.isfinite()


def test_guide_masks_what_it_finds() -> None:
    guide = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]]), dim=1)
    signals = Signals(image_ids=torch.arange(3), caption_ids=torch.arange(3), guide=(guide, guide))
    relations = apply_rules([Rule(GuideSimilarity(margin=0.05), Mask())], signals)
    assert relations.weights("i2t").dense(fill=1).tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 1]]


def test_a_finding_of_another_batch_says_so() -> None:
    with pytest.raises(ValueError, match="shape"):
        batch(3).adding("test", found([(0, 1)], 4), Mask())


def test_wrong_options_say_so() -> None:
    with pytest.raises(ConfigError, match=r"reweight\.floor"):
        Reweight(floor=2.0)
    with pytest.raises(ConfigError, match=r"smooth\.share"):
        Smooth(share=0.0)
