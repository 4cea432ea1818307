"""Settings of a recipe that contradict each other are named before anything is loaded."""

import pytest

from truepair.errors import ConfigError
from truepair.judges.base import JudgeConfig
from truepair.methods.ecm import EcmConfig
from truepair.methods.recipe import PretrainRecipe
from truepair.methods.rules import RelationsConfig

ONE_SIDED = EcmConfig(judge=JudgeConfig(checkpoint="judge"), symmetric=False)


def test_conversions_are_one_sided_in_zones_and_relations_or_in_neither() -> None:
    with pytest.raises(ConfigError, match=r"needs relations\.symmetric false"):
        PretrainRecipe(ecm=ONE_SIDED)
    assert PretrainRecipe(ecm=ONE_SIDED, relations=RelationsConfig(symmetric=False)).ecm is ONE_SIDED


def test_a_rule_is_the_same_with_a_default_stated_or_left_out() -> None:
    short, long = (
        RelationsConfig(rules=[{"detector": "guide", "action": "mask", **more}], guide_model="model")
        for more in ({}, {"margin": 0.05, "compare": "across"})
    )
    assert short == long
    assert short.rules == [
        {"detector": "guide", "action": "mask", "margin": 0.05, "strategy": "absolute", "compare": "across"}
    ]
