"""What the steps of truepair tell the engine of the image tower."""

from tests.models.tiny_albef import tiny_model
from truepair.engine.loop.optimizer import build_optimizer
from truepair.methods.towers import TowerOptimizerConfig, TowerStep


def test_the_image_tower_has_its_own_learning_rate() -> None:
    step = TowerStep(tiny_model())
    config = TowerOptimizerConfig(weight_decay=0.5, image_learning_rate=1e-5)
    peak = {id(p): group["peak"] for group in build_optimizer(step, config).param_groups for p in group["params"]}
    assert len(peak) == len([weight for weight in step.parameters() if weight.requires_grad])
    for name, weight in step.named_parameters():
        assert peak[id(weight)] == (1e-5 if name.startswith("model.image_encoder.") else 1e-4), name
    plain = build_optimizer(step, TowerOptimizerConfig())
    assert {group["peak"] for group in plain.param_groups} == {1e-4}


def test_image_towers_are_gathered_by_layer_those_of_copies_too() -> None:
    step = TowerStep(tiny_model())
    step.copy = tiny_model()
    assert step.gathered_by_layer() == [step.model.image_encoder, step.copy.image_encoder]
