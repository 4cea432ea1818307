"""Weights between two models."""

import pytest
import torch
from torch import nn

from tests.models.dual.bare_models import clip, inputs, seeded, siglip
from truepair.errors import ConfigError
from truepair.models import HubDualEncoder
from truepair.models.dual.interpolation import interpolate, weights_of


@pytest.mark.parametrize("family", [clip, siglip])
def test_every_weight_is_mixed_and_the_ends_are_exact(family) -> None:
    model = HubDualEncoder(seeded(family))
    start = weights_of(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    trained = weights_of(model)
    for alpha in (0.0, 0.3, 1.0):
        mixed = interpolate(start, trained, alpha)
        assert mixed.keys() == trained.keys()
        for name, value in mixed.items():
            if not value.is_floating_point():
                assert torch.equal(value, trained[name])
            elif alpha in (0.0, 1.0):
                assert torch.equal(value, (start, trained)[int(alpha)][name]), name
            else:
                torch.testing.assert_close(value, 0.7 * start[name] + 0.3 * trained[name], rtol=1e-4, atol=1e-6)
    # The temperature is mixed on its logarithm, as it is stored.
    model.load_state_dict(interpolate(start, trained, 0.5))
    log = (start["model.logit_scale"] + trained["model.logit_scale"]) / 2
    torch.testing.assert_close(model.temperature.log().neg(), log.reshape(()))
    assert model.encode_images(inputs()[0]).features.isfinite().all()


def test_what_did_not_move_stays_exactly() -> None:
    weight = torch.tensor([0.1, -3.7e-5, 1e30])
    assert torch.equal(interpolate({"a": weight}, {"a": weight.clone()}, 0.3)["a"], weight)


def test_the_copy_of_the_weights_does_not_move_with_the_model() -> None:
    layer = nn.Linear(2, 2)
    before = weights_of(layer)
    nn.init.zeros_(layer.weight)
    assert before["weight"].abs().sum() > 0


@pytest.mark.parametrize(
    ("start", "trained", "message"),
    [
        ({"a": 2}, {"b": 2}, r"start and trained model differ in [ab], so there is nothing between them"),
        ({"a": 2}, {"a": 3}, r"start and trained model differ in a"),
        ({"x.lora_A.w": 2}, {"x.lora_A.w": 2}, r"x\.lora_A\.w belongs to an adapter, which is not interpolated"),
    ],
)
def test_what_is_not_the_same_model_is_refused(start, trained, message) -> None:
    with pytest.raises(ConfigError, match=message):
        interpolate(*({name: torch.ones(size) for name, size in one.items()} for one in (start, trained)), 0.5)
