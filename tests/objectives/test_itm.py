import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.errors import ConfigError
from truepair.objectives.itm import (
    HardNegatives,
    MatchingConfig,
    choose_candidates,
    hardest_negatives,
    itm_loss,
    matching_pairs,
)
from truepair.relations.pairs import PairSet, same_pair


@settings(max_examples=80)
@given(st.integers(1, 12), st.integers(0, 2**31), st.sampled_from(["top1", "multinomial"]), st.floats(0, 1))
def test_choices_are_allowed_and_distinct(size: int, seed: int, sampling: str, hard_fraction: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(size, size, generator=generator) * 30
    allowed = torch.rand(size, size, generator=generator) < 0.4
    negatives = hardest_negatives(scores, allowed, MatchingConfig(sampling, hard_fraction), generator)
    for chosen, mask in ((negatives.i2t, allowed), (negatives.t2i, allowed.T)):
        for anchor in range(size):
            candidates = {j for j in range(size) if mask[anchor, j] and j != anchor}
            first, second = chosen[anchor].tolist()
            assert (first in candidates) if candidates else first == -1
            assert (second in candidates - {first}) if len(candidates) > 1 else second == -1


def test_top1_takes_the_two_largest() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20, 20, generator=generator)
    masked = scores.masked_fill(torch.eye(20, dtype=torch.bool), -torch.inf)
    negatives = hardest_negatives(scores)
    assert torch.equal(negatives.i2t, masked.topk(2, dim=1).indices)
    assert torch.equal(negatives.t2i, masked.T.topk(2, dim=1).indices)


def test_ties_go_to_the_lower_index() -> None:
    negatives = hardest_negatives(torch.zeros(5, 5))
    assert negatives.i2t.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]


def test_true_pair_is_never_chosen_where_the_official_line_chooses_it() -> None:
    """Temperature 1e-3: every off-diagonal softmax weight underflows, and a zeroed diagonal is as good as any zero."""
    scores = torch.eye(6) / 1e-3
    weights = F.softmax(scores, dim=1)
    weights.fill_diagonal_(0)
    assert weights.max() == 0  # so topk over them is arbitrary: what the official program does
    with pytest.raises(RuntimeError, match="invalid multinomial distribution"):
        torch.multinomial(weights[0], 1)  # and what ALBEF does
    for sampling in ("top1", "multinomial"):
        negatives = hardest_negatives(scores, None, MatchingConfig(sampling), torch.Generator().manual_seed(0))
        own = torch.arange(6).unsqueeze(1)
        assert ((negatives.i2t != own) & (negatives.i2t >= 0)).all()
        assert ((negatives.t2i != own) & (negatives.t2i >= 0)).all()


def test_same_image_or_caption_is_never_a_negative() -> None:
    image_ids, caption_keys = torch.tensor([1, 1, 2, 3]), torch.tensor([10, 11, 12, 10])
    known = same_pair(image_ids, caption_keys)
    assert known.tolist() == [
        [True, True, False, True],
        [True, True, False, False],
        [False, False, True, False],
        [True, False, False, True],
    ]
    scores = known * 100.0 + torch.eye(4)  # the known matches look hardest
    negatives = hardest_negatives(scores, ~known)
    assert negatives.i2t[:, 0].tolist() == [2, 2, 0, 1]


def test_one_image_only_gives_no_negative_and_weight_0() -> None:
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    pairs = matching_pairs(hardest_negatives(torch.zeros(3, 3), nothing))
    assert pairs.valid.tolist() == [True] * 3 + [False] * 6
    logits = torch.randn(9, 2, requires_grad=True)
    loss = itm_loss(logits, pairs.labels, pairs.valid)
    torch.testing.assert_close(loss, F.cross_entropy(logits[:3], torch.ones(3, dtype=torch.long)))
    loss.backward()
    assert logits.grad[3:].abs().max() == 0


def test_batch_of_one() -> None:
    pairs = matching_pairs(hardest_negatives(torch.zeros(1, 1)))
    assert pairs.valid.tolist() == [True, False, False]
    assert itm_loss(torch.zeros(3, 2), pairs.labels, torch.zeros(3, dtype=torch.bool)) == 0


def test_no_candidates_at_all() -> None:
    assert choose_candidates(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool)).tolist() == [[-1, -1]] * 2


def test_rows_of_itm() -> None:
    pairs = matching_pairs(HardNegatives(i2t=torch.tensor([[1, 2], [2, 0], [0, 1]]), t2i=torch.tensor([[2, 1]] * 3)))
    rows = list(zip(pairs.images.tolist(), pairs.texts.tolist(), pairs.labels.tolist(), strict=True))
    assert rows == [(0, 0, 1), (1, 1, 1), (2, 2, 1), (2, 0, 0), (2, 1, 0), (2, 2, 0), (0, 1, 0), (1, 2, 0), (2, 0, 0)]


def test_rows_that_count_and_rows_of_some_images() -> None:
    negatives = HardNegatives(
        i2t=torch.tensor([[1, 2], [-1, -1], [0, 1]]), t2i=torch.tensor([[2, 1], [0, 2], [-1, -1]])
    )
    pairs = matching_pairs(negatives)
    counted = pairs.counted
    assert len(pairs) == 9 and len(counted) == 7 and counted.valid.all()
    some = counted.of_images(slice(1, 3))
    rows = list(zip(some.images.tolist(), some.texts.tolist(), some.labels.tolist(), strict=True))
    assert rows == [(0, 1, 1), (1, 2, 1), (1, 0, 0), (1, 0, 0)]


def test_known_matches_are_further_rows() -> None:
    matches = PairSet(torch.tensor([0, 2]), torch.tensor([2, 1]), torch.ones(2), (3, 3))
    pairs = matching_pairs(hardest_negatives(torch.zeros(3, 3), ~matches.mask()), matches)
    assert len(pairs.images) == len(pairs.valid) == 11
    assert pairs.images[9:].tolist() == [0, 2] and pairs.texts[9:].tolist() == [2, 1]
    assert pairs.labels[9:].tolist() == [1, 1] and pairs.valid[9:].all()


def test_multinomial_draws_in_proportion_to_the_softmax() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0]).repeat(40_000, 1)
    allowed = torch.tensor([True, True, False, True]).expand_as(scores)
    generator = torch.Generator().manual_seed(0)
    chosen = choose_candidates(scores, allowed, MatchingConfig("multinomial"), generator)[:, 0]
    frequency = torch.bincount(chosen, minlength=4) / len(chosen)
    wanted = F.softmax(scores[0].masked_fill(~allowed[0], -torch.inf), dim=0)
    torch.testing.assert_close(frequency, wanted, atol=0.01, rtol=0)


@pytest.mark.parametrize("hard_fraction", [0.0, 0.25, 1.0])
def test_hard_fraction_mixes_in_random_negatives(hard_fraction: float) -> None:
    anchors, candidates = 20_000, 5
    scores = torch.arange(candidates).float().repeat(anchors, 1)
    allowed = torch.ones(anchors, candidates, dtype=torch.bool)
    config = MatchingConfig("top1", hard_fraction)
    chosen = choose_candidates(scores, allowed, config, torch.Generator().manual_seed(0))[:, 0]
    hardest = (chosen == candidates - 1).float().mean()
    assert math.isclose(hardest, hard_fraction + (1 - hard_fraction) / candidates, abs_tol=0.02)


def test_draws_depend_on_the_generator_only() -> None:
    scores, config = torch.randn(8, 8), MatchingConfig("multinomial", 0.5)
    torch.manual_seed(0)
    first = hardest_negatives(scores, None, config, torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    again = hardest_negatives(scores, None, config, torch.Generator().manual_seed(3))
    assert torch.equal(first.i2t, again.i2t) and torch.equal(first.t2i, again.t2i)
    with pytest.raises(ValueError, match="generator"):
        hardest_negatives(scores, None, config)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_that_overflowed(dtype: torch.dtype) -> None:
    scores = torch.full((4, 4), torch.inf, dtype=dtype)
    scores[0] = -torch.inf
    scores[1] = torch.nan
    negatives = hardest_negatives(scores, None, MatchingConfig("multinomial"), torch.Generator().manual_seed(0))
    assert (negatives.i2t >= 0).all() and (negatives.i2t != torch.arange(4).unsqueeze(1)).all()


def test_itm_loss_is_cross_entropy_in_float32() -> None:
    logits, labels = torch.randn(6, 2), torch.tensor([1, 0, 0, 1, 0, 1])
    torch.testing.assert_close(itm_loss(logits, labels), F.cross_entropy(logits, labels))
    assert itm_loss(logits.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize("wrong", [{"sampling": "hardest"}, {"hard_fraction": 1.5}, {"hard_fraction": -0.1}])
def test_wrong_options_say_so(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="itm"):
        MatchingConfig(**wrong)
