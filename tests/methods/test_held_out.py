"""Pairs held out of training, whose ITC rewards a learned hardness where there is no MLM."""

import math
from pathlib import Path

import pytest
import torch

from tests.methods import by_hand
from tests.methods.compositions import BATCHES, COMPOSITIONS
from tests.methods.steps import info, of_rank, pairs
from tests.sampling.gloo import GlooPool
from truepair.data.open import open_pairs
from truepair.data.pairs import PairBatch, PairCollator, PairDataset
from truepair.data.tokens import OwnTokenization, train_wordpiece
from truepair.errors import ConfigError
from truepair.methods.held_out import HeldOut
from truepair.methods.step import PretrainStep
from truepair.sampling.ranks import Ranks

HELD_OUT = pairs(list(range(20, 28)), seed=9)


def rewarded(name: str, rank: int = 0, ranks: int = 1) -> PretrainStep:
    step = COMPOSITIONS[name].build(rank, ranks)
    step.held_out = HeldOut(step.encoder, of_rank(HELD_OUT, rank, ranks))
    return step


def measured(step: PretrainStep, batch: PairBatch) -> float:
    with torch.no_grad():
        return step.eval()(batch, info(1)._replace(measures=True)).losses["loss"].item()


@pytest.mark.parametrize("name", ["ITC alone", "sigmoid"])
def test_the_reward_is_their_itc_whatever_the_batch(name: str) -> None:
    step = rewarded(name)
    assert step.reward_loss(1) == "ITC of 8 held-out pairs"
    found = by_hand.features(step.model, HELD_OUT)
    temperature = float(step.model.temperature.detach())
    scores = [[float(image @ text) / temperature for text in found.texts] for image in found.images]
    losses = []
    for row in range(8):
        if step.bias is not None:
            signs = [1.0 if row == column else -1.0 for column in range(8)]
            cells = [sign * (score + step.bias.item()) for sign, score in zip(signs, scores[row], strict=True)]
            losses.append(sum(math.log1p(math.exp(-cell)) for cell in cells))
            continue
        for line in (scores[row], [scores[other][row] for other in range(8)]):
            losses.append(math.log(sum(map(math.exp, line))) - line[row])
    for batch in BATCHES:
        assert measured(step, batch) == pytest.approx(sum(losses) / len(losses), rel=1e-6)


def measured_here(name: str) -> float:
    here = Ranks.current()
    return measured(rewarded(name, here.rank, here.count), of_rank(BATCHES[0], here.rank, here.count))


def test_the_mean_over_ranks_is_that_of_all(tmp_path: Path) -> None:
    pool = GlooPool(tmp_path, size=2, preload="truepair.methods.step")
    try:
        shares = pool.run(measured_here, "ITC alone", 2)
    finally:
        pool.close()
    assert sum(shares) / 2 == pytest.approx(measured(rewarded("ITC alone"), BATCHES[0]), rel=1e-9)


def chosen(squares: Path, count: int, ranks: Ranks) -> PairBatch:
    step = COMPOSITIONS["ITC alone"].build()
    dataset = PairDataset(open_pairs(squares / "pairs.jsonl", split="train"), captions="first")
    collate = PairCollator(OwnTokenization(train_wordpiece(dataset.table.captions(), 40), 12))
    return HeldOut.of(step.encoder, dataset, collate, count=count, seed=3, ranks=ranks).batch


def test_no_two_share_a_picture_or_a_caption_and_ranks_share_them_out(squares: Path) -> None:
    whole = chosen(squares, 4, Ranks())
    assert len(set(whole.captions)) == len(set(whole.image_id.tolist())) == 4
    halves = [chosen(squares, 4, Ranks(rank, 2)) for rank in range(2)]
    assert [*halves[0].captions, *halves[1].captions] == whole.captions


def test_as_many_as_there_are_but_no_fewer_than_two(squares: Path) -> None:
    assert len(chosen(squares, 500, Ranks())) == len(set(open_pairs(squares / "pairs.jsonl", split="train").captions()))
    assert len(chosen(squares, 5, Ranks(1, 2))) == 2
    with pytest.raises(ConfigError, match=r"there are not two for the 4 process\(es\) without .* larger data"):
        chosen(squares, 3, Ranks(0, 4))
