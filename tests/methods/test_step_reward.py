"""What a learned hardness learns from: the MLM loss of a step's own pairs, before and after its update."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.methods.compositions import BATCHES, COMPOSITIONS
from tests.methods.steps import HALF_MASKED, Composition, info, of_rank, pairs
from tests.sampling.gloo import GlooPool
from truepair.data.pairs import PairBatch
from truepair.methods.step import ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.randomness import sample_keys
from truepair.sampling.ranks import Ranks

MEASURED = info(1)._replace(measures=True)


def measured(step: PretrainStep, batch: PairBatch = BATCHES[0]) -> float:
    with torch.no_grad():
        output = step.eval()(batch, MEASURED)
    assert list(output.losses) == ["loss"]
    return output.losses["loss"].item()


def test_it_is_the_loss_of_the_hidden_words_one_by_one() -> None:
    step = COMPOSITIONS["plain"].build()
    batch, model = BATCHES[0], step.model
    assert step.masker is not None
    losses = []
    for row in range(len(batch)):
        key = sample_keys(step.seed, 0, batch.caption_id[row : row + 1])
        mask = batch.attention_mask[row : row + 1]
        ids, labels = step.masker(batch.input_ids[row : row + 1], mask, key)
        assert batch.pixel_values is not None
        keys_values = model.image_keys_values(model.image_states(batch.pixel_values[row : row + 1]))  # type: ignore[attr-defined]
        fused = model.fuse(model.text_states(ids, mask), mask, keys_values, torch.tensor([0]))  # type: ignore[attr-defined]
        hidden = labels >= 0
        logits = model.predict_tokens(fused, hidden)  # type: ignore[attr-defined]
        losses += [F.cross_entropy(line, word).item() for line, word in zip(logits, labels[hidden], strict=True)]
    assert len(losses) > 8
    assert measured(step) == pytest.approx(sum(losses) / len(losses), rel=1e-9)


@pytest.mark.parametrize("name", ["plain", "few rows of MLM", "sigmoid"])
def test_it_is_the_loss_that_the_step_trains(name: str) -> None:
    step = COMPOSITIONS[name].build()
    others = pairs(list(range(8)))  # no two of one image or caption, which the step reads as well
    trained = step(others, info(1)).losses["mlm"].item()
    assert measured(step, others) == pytest.approx(trained, rel=1e-9)


@pytest.mark.parametrize("name", ["hardest judged", "all judged", "momentum and queue", "in parts"])
def test_what_a_step_adds_does_not_count_and_nothing_is_noted(name: str) -> None:
    step = COMPOSITIONS[name].build()
    plain = measured(COMPOSITIONS["plain"].build())
    counts, judged = step.counts.read(), None if step.ecm is None else step.ecm.counts.read()
    queue = None if step.momentum is None else {name: value.clone() for name, value in step.momentum.tensors().items()}
    assert measured(step) == pytest.approx(plain, rel=1e-9)
    assert step.counts.read() == counts
    assert judged is None or (step.ecm is not None and step.ecm.counts.read() == judged)
    if queue is not None and step.momentum is not None:
        assert all(torch.equal(value, step.momentum.tensors()[name]) for name, value in queue.items())


def test_dropout_is_off() -> None:
    dropped = replace(COMPOSITIONS["plain"], model={"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3})
    assert measured(dropped.build()) == pytest.approx(measured(COMPOSITIONS["plain"].build()), rel=1e-9)


def test_it_is_named_once_mlm_is_trained() -> None:
    late = ObjectivesConfig(mlm=MlmConfig(masking=HALF_MASKED, start_epoch=2))
    step = Composition(late).build()
    assert [step.reward_loss(epoch) for epoch in range(3)] == ["", "", "the MLM loss"]
    without = ObjectivesConfig(itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))
    assert Composition(without).build().reward_loss(5) == ""


def measured_here(name: str) -> float:
    here = Ranks.current()
    return measured(COMPOSITIONS[name].build(here.rank, here.count), of_rank(BATCHES[0], here.rank, here.count))


def test_the_mean_over_ranks_is_that_of_the_whole_batch(tmp_path_factory: pytest.TempPathFactory) -> None:
    pool = GlooPool(tmp_path_factory.mktemp("gloo"), preload="truepair.methods.step")
    try:
        for name in ("plain", "few rows of MLM"):
            whole = measured(COMPOSITIONS[name].build())
            for world in (2, 4):
                shares = pool.run(measured_here, name, world)
                assert sum(shares) / world == pytest.approx(whole, rel=1e-9)
    finally:
        pool.close()
