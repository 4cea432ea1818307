"""Where a step could break: half precision, one pair, pairs all alike, no rows to read."""

from dataclasses import replace

import pytest
import torch

from tests.methods import by_hand
from tests.methods.steps import HALF_MASKED, Composition, ecm, info, pairs
from truepair.data.pairs import PairBatch
from truepair.errors import ConfigError
from truepair.methods.momentum import MomentumConfig
from truepair.methods.rules import RelationsConfig
from truepair.methods.srcl import SrclConfig
from truepair.methods.step import ItcConfig, ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.objectives.srcl import RegulationConfig
from truepair.randomness import keyed_uniform, sample_keys

OBJECTIVES = ObjectivesConfig(
    itc=ItcConfig(smoothing=0.5, consistency=0.2),
    itm=ItmConfig(sampling="multinomial", hard_fraction=0.5),
    mlm=MlmConfig(masking=HALF_MASKED),
)
SRCL = SrclConfig(weights=RegulationConfig("softmax"), alpha=0.5, seed_model="seed")
BY_MOMENTUM = RelationsConfig(rules=[{"detector": "momentum", "action": "smooth"}])
ALONE = ObjectivesConfig(itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))

COMPOSITIONS = {
    "mafa": Composition(OBJECTIVES, ecm=ecm(), dtype=torch.float32),
    "all judged": Composition(OBJECTIVES, ecm=ecm(ask="all", mask_doubtful=True), dtype=torch.float32),
    "srcl": Composition(OBJECTIVES, srcl=SRCL, dtype=torch.float32),
    "albef": Composition(OBJECTIVES, BY_MOMENTUM, momentum=MomentumConfig(queue_size=6), dtype=torch.float32),
}
BATCHES = {
    "pairs": pairs(list(range(6))),
    "one caption": pairs([0, 1, 2, 3], [5, 5, 5, 5]),
    "one image": pairs([2, 2, 2, 2], [0, 1, 2, 3]),
}


def run(step: PretrainStep, batch: PairBatch) -> dict[str, float]:
    """Three steps with gradients that are all finite; the last losses."""
    assert batch.pixel_values is not None
    batch = replace(batch, pixel_values=batch.pixel_values.float())
    for number in (2, 3, 4):
        step.zero_grad()
        losses = step(batch, info(number, logged=True)).losses
        losses["loss"].backward()
        assert all(loss.isfinite().all() for loss in losses.values())
        assert all(p.grad.isfinite().all() for p in step.parameters() if p.grad is not None)
        step.after_update(info(number))
    return {name: float(loss.detach()) for name, loss in losses.items()}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_half_precision_and_batches_without_negatives(name: str, batch: str) -> None:
    full = run(COMPOSITIONS[name].build(), BATCHES[batch])
    with torch.autocast("cpu", torch.bfloat16):
        half = run(COMPOSITIONS[name].build(), BATCHES[batch])
    assert half.keys() == full.keys()
    assert half["itc"] == pytest.approx(full["itc"], rel=0.1, abs=0.05)
    assert half["mlm"] == pytest.approx(full["mlm"], rel=0.1)


QUEUE = MomentumConfig(queue_size=6)


@pytest.mark.parametrize(("weights", "momentum"), [((1, 1), None), ((1, 0), None), ((0, 1), None), ((1, 1), QUEUE)])
def test_a_batch_of_one_pair_is_refused(weights: tuple[float, float], momentum: MomentumConfig | None) -> None:
    objectives = ObjectivesConfig(itc=ItcConfig(weight=weights[0]), itm=ItmConfig(weight=weights[1]))
    step = Composition(objectives, momentum=momentum, dtype=torch.float32).build()
    with pytest.raises(ConfigError, match="a batch has one pair, over all processes: IT"):
        step(pairs([3]), info(2))


@pytest.mark.parametrize(("itc", "momentum"), [(0.0, None), (1.0, QUEUE)])
def test_one_pair_is_a_batch_where_no_other_is_needed(itc: float, momentum: MomentumConfig | None) -> None:
    objectives = replace(OBJECTIVES, itc=ItcConfig(weight=itc), itm=ItmConfig(weight=0.0))
    losses = run(Composition(objectives, momentum=momentum, dtype=torch.float32).build(), pairs([3]))
    assert losses["mlm"] > 0 and (losses["itc"] > 0) == (momentum is not None)


def test_half_precision_does_not_tie_the_candidates() -> None:
    captured = []
    step = Composition(OBJECTIVES, dtype=torch.float32).build()
    relate = step.rules.relate
    step.rules.relate = lambda encoded, known: captured.append(encoded) or relate(encoded, known)  # type: ignore
    with torch.autocast("cpu", torch.bfloat16):
        run(step, pairs(list(range(8))))
    assert captured[0].logits.dtype == torch.float32
    images, texts = captured[0].image_features.float(), captured[0].text_features.float()
    torch.testing.assert_close(captured[0].similarity, (images @ texts.T).detach())


def test_mlm_reads_a_share_of_the_rows() -> None:
    share, batch = 0.4, pairs(list(range(8)))
    step = Composition(
        replace(OBJECTIVES, mlm=MlmConfig(masking=HALF_MASKED, row_share=share)), RelationsConfig(rules=[])
    ).build()
    rows, chosen_sets = by_hand.readings(batch, (), step.seed), []
    for epoch in range(4):
        keys = torch.cat([sample_keys(step.seed, epoch, batch.caption_id[row : row + 1]) for row in range(8)])
        chosen = [row for row in range(8) if float(keyed_uniform(keys, 1, stream=7)[row]) < share]
        chosen_sets.append(tuple(chosen))
        rows = by_hand.readings(batch, (), step.seed, epoch)
        expected = by_hand.mlm(step.model, batch, step.masker, [rows[row] for row in chosen]) if chosen else 0.0
        found = float(step(batch, info(10 * epoch, epoch=epoch, epochs=4)).losses["mlm"].detach())
        assert found == pytest.approx(expected, rel=1e-6)
    assert len(set(chosen_sets)) > 1 and all(len(chosen) < 8 for chosen in chosen_sets)


def test_no_row_of_mlm_at_all() -> None:
    objectives = replace(OBJECTIVES, mlm=MlmConfig(masking=HALF_MASKED, row_share=1e-9))
    step = Composition(objectives).build()
    losses = step(pairs([0, 1, 2]), info()).losses
    losses["loss"].backward()
    assert float(losses["mlm"].detach()) == 0.0
    assert all(parameter.grad is not None for parameter in step.parameters())  # ranks differentiate alike


def test_consistency_draws_each_direction_to_the_other() -> None:
    batch = pairs(list(range(6)))
    step = Composition(replace(ALONE, itc=ItcConfig(consistency=0.2)), RelationsConfig(rules=[])).build()
    found, temperature = by_hand.features(step.model, batch), float(step.model.temperature.detach())
    i2t = (found.images @ found.texts.T / temperature).softmax(dim=1)
    t2i = (found.texts @ found.images.T / temperature).softmax(dim=1)
    rows = {a: {c: float(t2i[a, c]) for c in range(6)} for a in range(6)}
    columns = {a: {c: float(i2t[a, c]) for c in range(6)} for a in range(6)}
    consistency = by_hand.itc(found.images, found.texts, temperature, rows)
    consistency += by_hand.itc(found.texts, found.images, temperature, columns)
    expected = by_hand.symmetric_itc(found, temperature) + 0.2 * consistency / 2
    assert float(step(batch, info()).losses["itc"].detach()) == pytest.approx(expected, rel=1e-6)


def test_keys_without_gradient_leave_the_loss_as_it_is() -> None:
    batch, gradients = pairs(list(range(6))), []
    for key_gradient in (True, False):
        step = Composition(replace(ALONE, itc=ItcConfig(key_gradient=key_gradient)), RelationsConfig(rules=[])).build()
        step(batch, info()).losses["loss"].backward()
        gradients.append(step.model.image_projection.weight.grad)
    assert gradients[0] is not None and gradients[1] is not None
    # By hand: image anchors against fixed texts is one half of ITC, and the only one that moves the images.
    step = Composition(ALONE, RelationsConfig(rules=[])).build()
    assert batch.pixel_values is not None
    images = step.model.encode_images(batch.pixel_values).features
    texts = by_hand.features(step.model, batch).texts
    logits = images @ texts.T / step.model.temperature
    half = torch.nn.functional.cross_entropy(logits, torch.arange(6)) / 2
    (expected,) = torch.autograd.grad(half, step.model.image_projection.weight)
    torch.testing.assert_close(gradients[1], expected)
    assert not torch.allclose(gradients[0], expected)
