"""Small models of transformers alone, without a processor or a tokenizer, and inputs for them."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
)

WIDTHS = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
# Large enough that nothing vanishes in the noise.
VISION = {**WIDTHS, "image_size": 16, "patch_size": 8, "initializer_range": 0.2}
END, PAD = 3, 0
TEXT = {**WIDTHS, "vocab_size": 40, "max_position_embeddings": 12, "initializer_range": 0.2}
TEXT |= {"bos_token_id": 2, "eos_token_id": END, "pad_token_id": PAD}


def clip() -> PreTrainedModel:
    return CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8))


def vit_and_bert() -> PreTrainedModel:
    vision, text = ViTConfig(**VISION), BertConfig(**TEXT)
    return VisionTextDualEncoderModel(
        VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=8)
    )


def siglip() -> PreTrainedModel:
    text = {**TEXT, "projection_size": 24}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))


def seeded(family: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return family().eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [3, 3, 16, 16], token ids and mask [3, 7] of captions of 7, 5 and 4 tokens, the last one the end."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate((7, 5, 4)):
        ids[row, 0], ids[row, length - 1] = 2, END
        ids[row, length:], mask[row, length:] = PAD, 0
    return torch.randn(3, 3, 16, 16, generator=generator), ids, mask
