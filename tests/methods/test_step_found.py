"""Whoever finds a match, one counter says how many are right."""

import numpy as np
import pytest

from tests.methods.steps import Composition, ecm, info, pairs, verdicts
from truepair.evaluation.truth import ConversionCounter, Truth
from truepair.methods.ecm import EcmConfig
from truepair.methods.rules import RelationsConfig
from truepair.methods.step import PretrainStep

BATCH = pairs(list(range(8)))
OTHERS = [(image, text) for image in range(8) for text in range(8) if image != text]
TRUE = {(image, text) for image, text in OTHERS if image // 2 == text // 2} | {(0, 5), (3, 6)}
HIGH = 0.8


def truth() -> Truth:
    """Of pairs: each with its own caption, and those of TRUE."""
    rows, texts = np.array([*TRUE, *((row, row) for row in range(8))]).T
    return Truth.of_matches(rows, texts + 1000)  # caption keys of `pairs`


def composed(mining: EcmConfig | None, relations: RelationsConfig) -> PretrainStep:
    return Composition(relations=relations, ecm=mining, guided=True, conversions=ConversionCounter(truth())).build()


@pytest.mark.parametrize("ask", ["hardest", "all", "rules"])
def test_conversions_by_a_judge(ask: str) -> None:
    rules = [{"detector": "judge", "action": "relabel", "high": HIGH}] if ask == "rules" else []
    step = composed(ecm(ask=ask), RelationsConfig(rules=rules))
    step(BATCH, info())
    asked = {(image, text) for image, text in step.ecm.own_judge.judge.asked}  # type: ignore
    above = {cell for cell in asked if verdicts()[cell] >= HIGH}
    figures = step.epoch_figures(0)
    counts = {name: figures[f"ecm/conversions_{name}"] for name in ("right", "judged_true", "batch_true")}
    assert counts == {"right": len(above & TRUE), "judged_true": len(asked & TRUE), "batch_true": len(TRUE)}
    assert figures["ecm/conversions_converted"] == len(above) > 0
    assert not step.epoch_figures(1)["ecm/conversions_batch_true"]


def test_matches_by_a_rule() -> None:
    rule = {"detector": "guide", "action": "relabel", "margin": 0.3}
    step = composed(None, RelationsConfig(rules=[rule], guide_model="guide"))
    step(BATCH, info())
    figures = step.epoch_figures(0)
    assert figures["ecm/conversions_batch_true"] == figures["ecm/conversions_judged_true"] == len(TRUE)
    assert figures["ecm/conversions_converted"] == figures["relations/guide/relabel"] > 0
