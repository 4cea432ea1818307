"""Small models of open_clip of every kind, made by its own classes from configs that a test wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig

from tests.models.dual.tiny_hub import seeded
from truepair.data.tokens import train_wordpiece

CAPTIONS = ["a small red square!", "a dot", "a large blue square in the middle", "A white square."]

VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def clip(folder: Path) -> dict[str, Any]:
    return {"embed_dim": 16, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT}


def resnet(folder: Path) -> dict[str, Any]:
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 49407}}


def custom_text(folder: Path) -> dict[str, Any]:
    """With a text transformer of its own, and a timm model with a linear head."""
    vision = {"image_size": 96, "timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear"}
    return {"embed_dim": 16, "custom_text": True, "vision_cfg": vision, "text_cfg": TEXT}


def siglip(folder: Path) -> dict[str, Any]:
    vision = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"}
    text = TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "vocab_size": 60}
    text |= {"hf_tokenizer_name": tokenizer(folder), "tokenizer_kwargs": {"clean": "canonicalize"}}
    kind = {"custom_text": True, "init_logit_bias": -10.0, "init_logit_scale": 4.0}
    return {"embed_dim": 64, **kind, "vision_cfg": vision, "text_cfg": text}


def bert(folder: Path) -> dict[str, Any]:
    """With a text tower of transformers."""
    text = {"hf_model_name": tokenizer(folder), "hf_tokenizer_name": tokenizer(folder), "context_length": 24}
    return {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": text | {"hf_pooler_type": "mean_pooler"}}


def coca(folder: Path) -> dict[str, Any]:
    vision = VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4, "output_tokens": True}
    text = TEXT | {"embed_cls": True, "output_tokens": True}
    return {"embed_dim": 32, "custom_text": True, "vision_cfg": vision, "text_cfg": text, "multimodal_cfg": TEXT}


FAMILIES: list[Callable[[Path], dict[str, Any]]] = [clip, resnet, custom_text, siglip, bert, coca]


def tokenizer(folder: Path) -> str:
    """A folder with a WordPiece tokenizer and the config of a small BERT."""
    target = folder / "pieces"
    if not target.exists():
        widths = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = BertConfig(**widths, vocab_size=60, max_position_embeddings=24, pad_token_id=0)
        config.save_pretrained(target)
        train_wordpiece(CAPTIONS, 60, min_frequency=1).save_pretrained(target)
    return str(target)


def made(config: dict[str, Any], folder: Path, name: str = "tiny") -> nn.Module:
    """A model with weights at random, in evaluation mode, of a folder that `open_clip` reads."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    pixels = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "squash"}
    settings = {"model_cfg": config, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    source = f"local-dir:{folder}"

    def build() -> Any:
        model = open_clip.create_model(source, pretrained_text=False)
        for parameter in model.parameters():  # so large that nothing vanishes in the noise
            if parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=0.2)
        return model

    model: nn.Module = seeded(build)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "open_clip_pytorch_model.bin")
    if config["text_cfg"].get("hf_tokenizer_name"):
        open_clip.tokenizer.HFTokenizer(config["text_cfg"]["hf_tokenizer_name"]).save_pretrained(folder)
    return model


def pixels_of(model: Any, count: int = 3) -> Tensor:
    """Random pixels [B, 3, H, W] of the size that a model reads."""
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))
