"""Small checkpoints in the exact layouts of ALBEF's and BLIP's programs, and the models they are made of."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BlipConfig, BlipForImageTextRetrieval

from tests.models.folders import tokenizer
from tests.models.tiny_albef import VIT, tiny_model
from truepair.models.checkpoints.official import to_official_names
from truepair.models.fusion.albef import AlbefModel

WIDTH = 64  # one head of 64 channels, as published models have twelve


def albef(**fields: Any) -> AlbefModel:
    """Of one head of 64 channels in each tower."""
    vit = VIT | {"hidden_size": WIDTH, "num_attention_heads": 1, "layer_norm_eps": 1e-6}
    return tiny_model(hidden_size=WIDTH, num_attention_heads=1, image_encoder=vit, max_position_embeddings=40, **fields)


def momentum_parts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Momentum copies, as ALBEF's and BLIP's programs name them; of other values, so that they are told apart."""
    towers = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
    parts = [(name, tower) for name in state for tower in towers if name.startswith(f"{tower}.")]
    return {name.replace(tower, f"{tower}_m", 1): state[name] + 1 for name, tower in parts}


def albef_state(model: AlbefModel) -> dict[str, Tensor]:
    """A pre-training checkpoint: momentum copies, queues, and a buffer of position numbers."""
    state = to_official_names(model)
    queues = {"image_queue": torch.ones(16, 8), "text_queue": torch.ones(16, 8), "queue_ptr": torch.zeros(1).long()}
    return {**state, **momentum_parts(state), **queues}


def retrieval_state(model: AlbefModel) -> dict[str, Tensor]:
    """A checkpoint of fine-tuning for retrieval: a bare BERT without vocabulary head, and a queue of image ids."""
    state = to_official_names(model)
    state = {name.replace(".bert.", ".", 1): value for name, value in state.items() if ".cls." not in name}
    queues = {"image_queue": torch.ones(16, 8), "text_queue": torch.ones(16, 8), "idx_queue": torch.full((1, 8), -100)}
    return {**state, **momentum_parts(state), **queues, "queue_ptr": torch.zeros(1).long()}


def blip(entries: int = 42) -> BlipForImageTextRetrieval:
    """Transformers' class, of one head of 64 channels in each tower.

    Args:
        entries: of the vocabulary; the last two are [DEC] and [ENC].
    """
    sizes = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
    sizes |= {"initializer_range": 0.2}
    text = sizes | {"vocab_size": entries, "max_position_embeddings": 40, "bos_token_id": 40, "sep_token_id": 3}
    vision = sizes | {"image_size": 16, "patch_size": 8, "layer_norm_eps": 1e-6}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=8)
        return BlipForImageTextRetrieval(config).eval()


_OFFICIAL = (
    ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
    ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
    ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
    ("vision_model.post_layernorm", "visual_encoder.norm"),
    ("vision_model.encoder.layers", "visual_encoder.blocks"),
    ("layer_norm1", "norm1"),
    ("layer_norm2", "norm2"),
    ("self_attn.qkv", "attn.qkv"),
    ("self_attn.projection", "attn.proj"),
)


def blip_state(model: BlipForImageTextRetrieval, *, base: bool = False) -> dict[str, Tensor]:
    """A checkpoint of BLIP: of retrieval, or its base model with the caption decoder."""
    state = {}
    for name, value in model.state_dict().items():
        for ours, official in _OFFICIAL:
            name = name.replace(ours, official) if name.startswith("vision_model") or "visual" in name else name
        state[name] = value.clone()
    state["text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    state |= momentum_parts(state)
    state |= {"temp": torch.tensor(0.05), "image_queue": torch.ones(8, 8), "text_queue": torch.ones(8, 8)}
    if base:
        decoder = {n.replace("text_encoder.", "text_decoder.bert.", 1): v for n, v in state.items() if "text_enc" in n}
        return {**state, **decoder, "text_decoder.cls.predictions.bias": torch.ones(42), "queue_ptr": torch.zeros(1)}
    return {**state, "idx_queue": torch.full((1, 8), -100), "ptr_queue": torch.zeros(1).long()}


def save_tokenizer(folder: Path) -> Path:
    """A tokenizer of 40 entries."""
    tokenizer(40).save_pretrained(folder)
    return folder
