"""Compiled layers compute what plain ones compute."""

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.models.tiny_albef import batch, tiny_model
from truepair.engine.distributed.accelerator import compile_layers, has_compiler
from truepair.errors import ConfigError
from truepair.models.fusion.albef import AlbefModel


def trained(model: AlbefModel, rows: int) -> tuple[float, dict[str, Tensor]]:
    """A loss that reads all encoders, and its gradients."""
    pixels, ids, mask = batch(rows)
    model.zero_grad()
    image, text = model.encode_images(pixels), model.encode_texts(ids, mask)
    keys_values = model.image_keys_values(image.states)
    fused = model.fuse(text.states, mask, keys_values, torch.arange(rows) // 2)
    short = model.fuse(text.states, mask, keys_values, cls_only=True)
    loss = (image.features * text.features).sum() + fused.sin().sum() + model.match(short).sum()
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def models() -> list[AlbefModel]:
    """The same model twice, without dropout."""
    return [tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train() for _ in range(2)]


def compare(plain: AlbefModel, compiled: AlbefModel) -> None:
    """Both train alike, on batches of two sizes."""
    for rows in (4, 6):
        loss, gradients = trained(plain, rows)
        loss_of_compiled, gradients_of_compiled = trained(compiled, rows)
        assert loss_of_compiled == pytest.approx(loss, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradients_of_compiled[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_traced_layers_are_equal() -> None:
    plain, compiled = models()
    assert compile_layers(compiled, backend="eager") == 6
    compare(plain, compiled)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_compiled_layers_are_equal() -> None:
    plain, compiled = models()
    assert compile_layers(compiled.text_encoder) == 2  # of the others it would take minutes
    compare(plain, compiled)


def test_a_compiled_model_is_copied_and_saved_as_before(tmp_path: Path) -> None:
    model = tiny_model()
    names = list(model.state_dict())
    compile_layers(model, backend="eager")
    assert list(model.state_dict()) == names
    assert list(copy.deepcopy(model).state_dict()) == names
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), io.BytesIO())
    assert list(AlbefModel.from_pretrained(tmp_path).state_dict()) == names


def test_what_cannot_be_compiled_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="Linear has no transformer layers"):
        compile_layers(nn.Linear(1, 1), backend="eager")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        compile_layers(tiny_model())
