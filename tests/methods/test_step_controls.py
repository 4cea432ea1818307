"""What studies compare methods with: removal by weight, shuffled weights, one place of ECM at a time, frozen guides."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.methods import by_hand
from tests.methods.steps import ASKED, Composition, info, pairs, student
from truepair.errors import ConfigError
from truepair.evaluation.truth import Truth
from truepair.methods.ecm import EcmConfig
from truepair.methods.encode import EncodedBatch
from truepair.methods.rules import RelationsConfig
from truepair.methods.srcl import SrclConfig
from truepair.methods.step import ItmConfig, MlmConfig, ObjectivesConfig, hardest_is_false
from truepair.objectives.srcl import RegulationConfig
from truepair.randomness import keyed_uniform, sample_keys

ITC_ALONE = ObjectivesConfig(itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))
BATCH = pairs(list(range(12)))
TEMPERED = RegulationConfig("tempered", tau_w=0.2)


def itc_of(composition: Composition, number: int = 0) -> float:
    return float(composition.build()(BATCH, info(number)).losses["itc"].detach())


@pytest.mark.parametrize("below", [0.8, 1.0])
def test_removal_leaves_out_what_srcl_would_weigh_little(below: float) -> None:
    rule = {"detector": "weight", "action": "mask", "below": below}
    relations = RelationsConfig(rules=[rule], guide_model="guide", weights=TEMPERED, symmetric=False)
    step = Composition(ITC_ALONE, relations, guided=True).build()
    found, guide = by_hand.features(step.model, BATCH), by_hand.features(student(12), BATCH)
    temperature, losses, removed = float(step.model.temperature.detach()), [], 0
    for queries, keys, seed_queries, seed_keys in (
        (found.images, found.texts, guide.images, guide.texts),
        (found.texts, found.images, guide.texts, guide.images),
    ):
        for anchor in range(12):
            others = [c for c in range(12) if c != anchor]
            raw = {c: 1 / math.exp(float(seed_queries[anchor] @ seed_keys[c]) / 0.2) for c in others}
            mean = sum(raw.values()) / len(others)
            left = [anchor, *(c for c in others if raw[c] / mean >= below)]
            removed += 12 - len(left)
            logits = [float(queries[anchor] @ keys[c]) / temperature for c in left]
            losses.append(math.log(sum(map(math.exp, logits))) - logits[0])
    assert 0 < removed < 24 * 11
    loss = float(step(BATCH, info()).losses["itc"].detach())
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("number", [0, 1])
def test_shuffled_weights_are_those_of_other_texts_of_the_seed(number: int) -> None:
    plain = SrclConfig(weights=TEMPERED, alpha=1.0, seed_model="seed")
    step = Composition(ITC_ALONE, RelationsConfig(rules=[]), srcl=replace(plain, shuffle=True)).build()
    found, seed = by_hand.features(step.model, BATCH), by_hand.features(student(11), BATCH)
    order = keyed_uniform(sample_keys(BATCH.image_id, number), 1)[:, 0].argsort().tolist()
    dealt = [seed.texts[place] for place in order]  # text t is weighed as if it were text order[t]; pictures stay
    assert sum(place != text for text, place in enumerate(order)) > 6
    temperature, losses = float(step.model.temperature.detach()), []
    for queries, keys, seed_queries, seed_keys in (
        (found.images, found.texts, seed.images, dealt),
        (found.texts, found.images, dealt, seed.images),
    ):
        for anchor in range(12):
            others = [c for c in range(12) if c != anchor]
            raw = {c: 1 / math.exp(float(seed_queries[anchor] @ seed_keys[c]) / 0.2) for c in others}
            mean = sum(raw.values()) / len(others)
            f = [math.exp(float(queries[anchor] @ keys[c]) / temperature) for c in range(12)]
            losses.append(-math.log(f[anchor] / (f[anchor] + sum(raw[c] / mean * f[c] for c in others))))
    loss = float(step(BATCH, info(number)).losses["itc"].detach())
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-6)


def test_the_shuffle_is_drawn_anew_in_each_batch_and_repeats() -> None:
    plain = SrclConfig(weights=TEMPERED, alpha=1.0, seed_model="seed")
    shuffled = replace(plain, shuffle=True)
    losses = [itc_of(Composition(ITC_ALONE, RelationsConfig(rules=[]), srcl=config)) for config in (plain, shuffled)]
    again = itc_of(Composition(ITC_ALONE, RelationsConfig(rules=[]), srcl=shuffled))
    other = itc_of(Composition(ITC_ALONE, RelationsConfig(rules=[]), srcl=shuffled), 1)
    assert losses[1] == again and len({*losses, other}) == 3
    with pytest.raises(ConfigError, match=r"srcl\.shuffle .* set srcl\.alpha to 1"):
        SrclConfig(seed_model="seed", shuffle=True)


def test_places_hear_of_conversions_alone() -> None:
    everywhere = Composition(ecm=EcmConfig(judge=ASKED), relations=RelationsConfig(rules=[]))
    nowhere = Composition(relations=RelationsConfig(rules=[]))
    wanted = {name: step.build()(BATCH, info()).losses for name, step in (("all", everywhere), ("none", nowhere))}
    for place in ("itc", "itm", "mlm"):
        config = EcmConfig(judge=ASKED, places=[place])
        found = replace(everywhere, ecm=config).build()(BATCH, info()).losses
        for name in ("itc", "itm", "mlm"):
            assert torch.equal(found[name], wanted["all" if name == place else "none"][name])
        assert not torch.equal(found[place], wanted["none"][place])


def test_impossible_places_are_one_line() -> None:
    for places in ([], ["vqa"]):
        with pytest.raises(ConfigError, match=r"ecm\.places is .*; give some of itc, itm, mlm"):
            EcmConfig(judge=ASKED, places=places)
    with pytest.raises(ConfigError, match=r"ecm\.places belongs to ecm\.ask 'hardest'"):
        EcmConfig(judge=ASKED, places=["itc"], ask="all")


def test_frozen_encoders_compare_within_a_modality_only() -> None:
    rule = {"detector": "guide", "action": "mask"}
    for wrong in (rule, {"detector": "weight", "action": "mask"}):
        with pytest.raises(ConfigError, match=r"relations\.guide_model 'encoders' compares no image with a text"):
            RelationsConfig(rules=[wrong], guide_model="encoders")
    RelationsConfig(rules=[rule | {"compare": "texts"}], guide_model="encoders")
    with pytest.raises(ConfigError, match=r"detector 'weight' needs relations\.guide_model"):
        RelationsConfig(rules=[{"detector": "weight", "action": "mask"}])


def test_the_hardest_negative_is_counted_where_it_is_a_false_one() -> None:
    generator = torch.Generator().manual_seed(2)
    images, texts = (F.normalize(torch.randn(12, 4, generator=generator), dim=1) for _ in range(2))
    batch = pairs([0, 0, *range(2, 12)], list(range(12)))
    hidden = torch.rand(12, 12, generator=generator) < 0.3
    similarity, hits = images @ texts.T, []
    for i in range(12):
        same = [j for j in range(12) if i == j or {i, j} == {0, 1}]
        others = [j for j in range(12) if j not in same]
        hits += [float(hidden[i, max(others, key=lambda j: float(similarity[i, j]))])]
        hits += [float(hidden[max(others, key=lambda j: float(similarity[j, i])), i])]
    rows, columns = hidden.nonzero(as_tuple=True)
    truth = Truth.of_matches(rows.numpy(), batch.caption_key[columns].numpy())
    batch = replace(batch, source_index=torch.arange(12))
    nothing = torch.zeros(12, 0)
    encoded = EncodedBatch(
        batch, batch, slice(0, 12), [nothing], [None], images, texts, nothing, torch.tensor(0.1), info(0, logged=True)
    )
    assert hardest_is_false(encoded, truth, slice(0, 12, 1)) == pytest.approx(sum(hits) / 24)
    assert 0 < sum(hits) < 24
    assert hardest_is_false(encoded, truth, slice(0, 12, 5)) == pytest.approx(
        sum(hits[2 * row] + hits[2 * row + 1] for row in (0, 5, 10)) / 6
    )
