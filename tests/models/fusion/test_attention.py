"""Every attention is torch's fused one: none writes its weights out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from tests.models.tiny_albef import VIT, batch, tiny_model

CONV_STEM = {"model_type": "conv_stem", "image_size": 16, "hidden_size": 32, "num_hidden_layers": 2}
CONV_STEM |= {"num_attention_heads": 2, "intermediate_size": 48}
CLIP = {**VIT, "model_type": "clip_vision_model"}


class Called(TorchFunctionMode):
    """Counts fused attentions and softmaxes."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = self.softmax = 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        self.fused += function is F.scaled_dot_product_attention
        # The mode does not see what torch's own block calls: the fused one, unless weights are asked for.
        self.fused += function is F.multi_head_attention_forward and not (options or {})["need_weights"]
        self.softmax += getattr(function, "__name__", "") in ("softmax", "_softmax")
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("encoder", [VIT, CONV_STEM, CLIP], ids=lambda encoder: encoder["model_type"])
def test_attention_is_fused(encoder: dict[str, Any]) -> None:
    model = tiny_model(image_encoder=encoder).train()
    pixels, ids, mask = batch()
    with Called() as called:
        model(pixels, ids, mask)
    assert called.softmax == 0
    assert called.fused == 2 + 2 + 2 * 2  # image and text layers; a fusion layer has two


def test_the_mode_sees_attention_that_is_not() -> None:
    model = tiny_model(image_encoder={**VIT, "attention_probs_dropout_prob": 0.1})  # not lean
    model.image_encoder.model.set_attn_implementation("eager")
    with Called() as called, torch.no_grad():
        model(*batch())
    assert called.softmax == 2
