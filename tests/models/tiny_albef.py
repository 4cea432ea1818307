"""A model small enough to test everything on, and a batch for it."""

from typing import Any

import torch
from torch import Tensor

from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig

VIT = {
    "model_type": "vit",
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def tiny_config(**fields: Any) -> AlbefConfig:
    defaults: dict[str, Any] = {
        "image_encoder": VIT,
        "vocab_size": 60,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "text_layers": 2,
        "fusion_layers": 2,
        "max_position_embeddings": 20,
        "embed_dim": 16,
    }
    return AlbefConfig(**{**defaults, **fields})


def tiny_model(seed: int = 0, **fields: Any) -> AlbefModel:
    """In evaluation mode, with weights large enough that nothing vanishes in the noise."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AlbefModel(tiny_config(initializer_range=0.2, **fields)).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm | torch.nn.Linear) and module.bias is not None:
                torch.nn.init.normal_(module.bias, std=0.2)
    return model


def batch(rows: int = 3, length: int = 7, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [R, 3, 16, 16], token ids and mask [R, length]; later rows are shorter."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(rows, 3, 16, 16, generator=generator)
    lengths = length - torch.arange(rows) % (length - 2)
    mask = (torch.arange(length) < lengths[:, None]).long()
    return pixels, torch.randint(5, 60, (rows, length), generator=generator) * mask, mask
