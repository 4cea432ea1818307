"""Steps of every kind, for tests that must hold whatever a step is composed of."""

from dataclasses import replace

from tests.methods.steps import HALF_MASKED, Composition, ecm, pairs
from truepair.methods.momentum import MomentumConfig
from truepair.methods.rules import RelationsConfig
from truepair.methods.srcl import SrclConfig
from truepair.methods.step import ItcConfig, ItmConfig, MlmConfig, ObjectivesConfig
from truepair.objectives.srcl import CalibrationConfig, RegulationConfig

HALF = MlmConfig(masking=HALF_MASKED)
NO_RULES = RelationsConfig(rules=[])
GUIDED = RelationsConfig(rules=[{"detector": "guide", "action": "reweight", "margin": 0.3}], guide_model="guide")
FEW_ROWS = ObjectivesConfig(mlm=MlmConfig(masking=HALF_MASKED, row_share=0.3))
SIGMOID = ItcConfig(loss="sigmoid", bias_init=-3.0)
SOFTMAX = RegulationConfig(form="softmax")

COMPOSITIONS = {
    "plain": Composition(ObjectivesConfig(mlm=HALF)),
    "drawn negatives": Composition(
        ObjectivesConfig(itm=ItmConfig(sampling="multinomial", hard_fraction=0.5), mlm=HALF), NO_RULES
    ),
    "products of features": Composition(ObjectivesConfig(mlm=HALF), model={"itm_product": True}),
    "hardest judged": Composition(ObjectivesConfig(mlm=HALF), ecm=ecm()),
    "one-sided": Composition(
        ObjectivesConfig(itc=ItcConfig(key_gradient=False, smoothing=0.5), mlm=HALF),
        RelationsConfig(rules=[], symmetric=False),
        ecm=ecm(symmetric=False, once=False, judge_second=False),
    ),
    "all judged": Composition(ObjectivesConfig(mlm=HALF), RelationsConfig(extra_rows=0.5), ecm=ecm(ask="all")),
    "regulated": Composition(
        ObjectivesConfig(mlm=HALF),
        srcl=SrclConfig(weights=SOFTMAX, alpha=0.4, seed_model="seed", calibrate=CalibrationConfig()),
    ),
    "momentum and queue": Composition(
        ObjectivesConfig(mlm=HALF), momentum=MomentumConfig(queue_size=12, decay=0.5, ramp_epochs=0.2)
    ),
    "regulated momentum": Composition(
        ObjectivesConfig(mlm=HALF),
        srcl=SrclConfig(alpha=0.5, seed_model="seed"),
        momentum=MomentumConfig(queue_size=0, ramp_epochs=0.2),
    ),
    "consistency": Composition(ObjectivesConfig(itc=ItcConfig(key_gradient=False, consistency=0.2), mlm=HALF)),
    "guided": Composition(ObjectivesConfig(mlm=HALF), GUIDED, guided=True),
    "in parts": Composition(ObjectivesConfig(mlm=HALF), ecm=ecm(), micro_batch=1),
    "few rows of MLM": Composition(FEW_ROWS),
    "sigmoid": Composition(ObjectivesConfig(itc=SIGMOID, mlm=HALF)),
    "one-sided sigmoid": Composition(
        ObjectivesConfig(itc=replace(SIGMOID, key_gradient=False, smoothing=0.5), mlm=HALF),
        RelationsConfig(rules=[], symmetric=False),
        ecm=ecm(symmetric=False, once=False, judge_second=False),
    ),
    "regulated sigmoid": Composition(
        ObjectivesConfig(itc=SIGMOID, mlm=HALF), srcl=SrclConfig(weights=SOFTMAX, alpha=0.4, seed_model="seed")
    ),
    "sigmoid with momentum and queue": Composition(
        ObjectivesConfig(itc=SIGMOID, mlm=HALF), momentum=MomentumConfig(queue_size=12, decay=0.5, ramp_epochs=0.2)
    ),
    "ITC alone": Composition(ObjectivesConfig(itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))),
}
# Images 0 and 3 stand twice, and one caption is said of three images.
BATCHES = [
    pairs([0, 1, 2, 3, 4, 5, 3, 0], [0, 1, 2, 3, 4, 1, 6, 7], seed=1),
    pairs([8, 1, 2, 9, 4, 10, 3, 11], [8, 1, 2, 9, 4, 1, 3, 11], seed=2),
]
