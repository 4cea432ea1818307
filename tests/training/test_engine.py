from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.tiny_albef import batch, tiny_model
from truepair.errors import ConfigError
from truepair.models.albef import AlbefModel
from truepair.training.engine import build_accelerator, prepare_model
from truepair.training.loop_config import LoopConfig
from truepair.training.training_step import TrainingStep


def loss_of(model: AlbefModel) -> Tensor:
    pixels, ids, mask = batch(rows=4)
    torch.manual_seed(0)
    image, text = model.encode_image(pixels), model.encode_text(ids, mask)
    fused = model.fuse(text.states, mask, model.image_keys_values(image.states))
    return (image.feature * text.feature).sum() + fused.sin().sum()


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


def test_sharding_by_accelerate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="configured for FSDP; launch without it"):
        build_accelerator(LoopConfig(cpu=True), tmp_path)


def test_activations_are_recomputed_and_gradients_stay() -> None:
    kept, expected = measured(tiny_model().train())
    model = tiny_model().train()
    prepare_model(TrainingStep(model), LoopConfig(gradient_checkpointing=True))
    kept_less, gradients = measured(model)
    assert kept_less < 0.7 * kept
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
