from pathlib import Path

import pytest
import torch
from accelerate import DistributedType
from torch import Tensor

from tests.models.tiny_albef import batch, tiny_model
from truepair.engine.distributed.accelerator import build_accelerator, prepare_model, sharding_plugin
from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.step import TrainingStep
from truepair.errors import ConfigError
from truepair.models.fusion.albef import AlbefModel


def loss_of(model: AlbefModel) -> Tensor:
    pixels, ids, mask = batch(rows=4)
    torch.manual_seed(0)
    image, text = model.encode_images(pixels), model.encode_texts(ids, mask)
    fused = model.fuse(text.states, mask, model.image_keys_values(image.states))
    return (image.features * text.features).sum() + fused.sin().sum()


def measured(model: AlbefModel) -> tuple[int, dict[str, Tensor]]:
    """Bytes of activations that the forward pass keeps for the backward pass, and the gradients."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(model)
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return sum(kept.values()), gradients


def test_weights_are_spread_if_the_recipe_or_accelerate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sharding_plugin(LoopConfig()) is None
    by_recipe = sharding_plugin(LoopConfig(shard=True))
    assert by_recipe is not None
    assert by_recipe.reshard_after_forward
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    by_accelerate = sharding_plugin(LoopConfig())
    assert by_accelerate is not None
    assert not by_accelerate.reshard_after_forward


@pytest.mark.parametrize(
    ("variable", "value", "advice"),
    [
        ("FSDP_VERSION", "1", "set --fsdp_version 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "leave out --fsdp_offload_params"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "set --fsdp_cpu_ram_efficient_loading false"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "set loop.gradient_checkpointing instead"),
    ],
)
def test_what_accelerate_cannot_ask_for_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, advice: str
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=advice):
        build_accelerator(LoopConfig(cpu=True), tmp_path)


def test_half_floats_are_not_spread() -> None:
    with pytest.raises(ConfigError, match="give bf16 or no"):
        sharding_plugin(LoopConfig(shard=True, precision="fp16"))


def test_accelerate_itself_spreads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert build_accelerator(LoopConfig(cpu=True), tmp_path).distributed_type == DistributedType.NO
    assert sharding_plugin(LoopConfig()) is not None  # a second stage of the run is asked the same


def test_activations_are_recomputed_and_gradients_stay() -> None:
    kept, expected = measured(tiny_model().train())
    model = tiny_model().train()
    prepare_model(TrainingStep(model), LoopConfig(gradient_checkpointing=True))
    kept_less, gradients = measured(model)
    assert kept_less < 0.7 * kept
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
