"""Tiny models of transformers without a folder, and what their library makes of a batch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    BertConfig,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
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


def metaclip_2() -> PreTrainedModel:
    return MetaClip2Model(MetaClip2Config(text_config=TEXT, vision_config=VISION, projection_dim=8))


def chinese_clip() -> PreTrainedModel:
    return ChineseCLIPModel(ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8))


def altclip() -> PreTrainedModel:
    text = {**TEXT, "project_dim": 8, "max_position_embeddings": 14}  # positions start behind that of the padding
    return AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))


def vit_and_bert() -> PreTrainedModel:
    vision, text = ViTConfig(**VISION), BertConfig(**TEXT)
    return VisionTextDualEncoderModel(
        VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=8)
    )


def siglip() -> PreTrainedModel:
    text = {**TEXT, "projection_size": 24}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))


FAMILIES = [clip, metaclip_2, chinese_clip, altclip, vit_and_bert, siglip]
Family = Callable[[], PreTrainedModel]


def seeded(family: Family) -> PreTrainedModel:
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


def librarys_own(model: PreTrainedModel, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Features as transformers makes them; for SigLIP as its tokenizer would pad the captions."""
    if isinstance(model, SiglipModel):
        text = model.get_text_features(input_ids=F.pad(ids, (0, 12 - ids.shape[1]), value=PAD))
    else:
        text = model.get_text_features(input_ids=ids, attention_mask=mask)
    image = model.get_image_features(pixel_values=pixels)
    return F.normalize(image.pooler_output, dim=1), F.normalize(text.pooler_output, dim=1)
