"""Checkpoints under the official BLIP names (retrieval, which is also the form for ITM, and base), to transformers'."""

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BlipConfig, BlipForImageTextRetrieval

from truepair.errors import CheckpointError
from truepair.models.checkpoints.official import count_numbers, shape_of

_VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}

_VISION_LAYER = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}

_POSITIONS = "vision_model.embeddings.position_embedding"

# The published text encoder is BERT with these (its configs/med_config.json), the image encoder timm's ViT.
_TEXT = {"hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "layer_norm_eps": 1e-12}
_IMAGE = {"hidden_act": "gelu", "layer_norm_eps": 1e-6}


def load_official_blip(
    state: Mapping[str, Tensor], *, image_heads: int, text_heads: int, image_size: int = 0
) -> BlipForImageTextRetrieval:
    """A model from the weights of an official checkpoint. Sizes are read off the tensors, and every name must be used.

    The learnt temperature of ITC goes to the config, as `BlipFusionModel` keeps it.

    Args:
        state: Under the official names, in float32, without momentum copies, queues and decoder.
        image_heads: Attention heads of the image encoder.
        text_heads: Of the text encoder.
        image_size: Height and width of the images to come, in pixels; position embeddings are interpolated. 0 for those
            that the checkpoint is of.

    Raises:
        CheckpointError: a name is missing, unknown or of a wrong shape.
    """
    config = _config(state, image_heads, text_heads, image_size)
    with torch.device("meta"):
        expected = BlipForImageTextRetrieval(config).state_dict()
    ours = {our_name(name): tensor for name, tensor in state.items() if name != "temp"}
    unknown = sorted(name for name in state if name != "temp" and our_name(name) not in expected)
    if unknown or expected.keys() - ours.keys():
        missing = sorted(expected.keys() - ours.keys())
        what = f"has {len(unknown)} names that BLIP has not: {', '.join(unknown[:5])}" if unknown else ""
        lacks = f"lacks {len(missing)} weights of BLIP: {', '.join(missing[:5])}" if missing else ""
        raise CheckpointError(f"the checkpoint {' and '.join(filter(None, (what, lacks)))}")
    ours[_POSITIONS] = _interpolated(ours[_POSITIONS], expected[_POSITIONS].shape[1])
    model = BlipForImageTextRetrieval(config)
    try:
        model.load_state_dict(ours)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint does not fit its own sizes: {' '.join(str(error).split())}") from error
    return model.eval()


def our_name(name: str) -> str:
    """What transformers calls an official name; the text encoder, projections and ITM head have the same ones."""
    if not name.startswith("visual_encoder."):
        return name
    inner = name.removeprefix("visual_encoder.")
    if found := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", inner):
        part = _VISION_LAYER.get(found[2])
        return name if part is None else f"vision_model.encoder.layers.{found[1]}.{part}.{found[3]}"
    base, point, kind = inner.rpartition(".")
    whole, module = _VISION.get(inner), _VISION.get(base)
    if whole is not None:
        return f"vision_model.{whole}"
    return name if module is None else f"vision_model.{module}{point}{kind}"


def _config(state: Mapping[str, Tensor], image_heads: int, text_heads: int, image_size: int) -> BlipConfig:
    """The config whose sizes the tensors show."""
    vocabulary, width = shape_of(state, "text_encoder.embeddings.word_embeddings.weight")
    image_width, _, patch, _ = shape_of(state, "visual_encoder.patch_embed.proj.weight", 4)
    side = math.isqrt(shape_of(state, "visual_encoder.pos_embed", 3)[1] - 1)
    text = {
        **_TEXT,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "encoder_hidden_size": image_width,
        "num_attention_heads": text_heads,
        "num_hidden_layers": count_numbers(state, r"text_encoder\.encoder\.layer\.(\d+)\..*"),
        "intermediate_size": shape_of(state, "text_encoder.encoder.layer.0.intermediate.dense.weight")[0],
        "max_position_embeddings": shape_of(state, "text_encoder.embeddings.position_embeddings.weight")[0],
        "bos_token_id": vocabulary - 2,  # [DEC]; [ENC] is the last
    }
    vision = {
        **_IMAGE,
        "hidden_size": image_width,
        "num_attention_heads": image_heads,
        "num_hidden_layers": count_numbers(state, r"visual_encoder\.blocks\.(\d+)\..*"),
        "intermediate_size": shape_of(state, "visual_encoder.blocks.0.mlp.fc1.weight")[0],
        "image_size": image_size or side * patch,
        "patch_size": patch,
    }
    options: dict[str, float] = {"image_text_hidden_size": shape_of(state, "vision_proj.weight")[0]}
    if "temp" in state:
        options["logit_scale_init_value"] = -math.log(float(state["temp"]))
    return BlipConfig(text_config=text, vision_config=vision, **options)


def _interpolated(table: Tensor, positions: int) -> Tensor:
    """Positions [1, 1 + side^2, W] for another number of patches, bicubic; that of [CLS] stays."""
    if table.shape[1] == positions:
        return table
    old, new = math.isqrt(table.shape[1] - 1), math.isqrt(positions - 1)
    grid = table[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)  # [1, W, old, old]
    grid = F.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
