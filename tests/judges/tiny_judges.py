"""Tiny checkpoints with random weights, as users would have them on disk."""

from pathlib import Path

import torch
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
)

from tests.models.tiny_albef import VIT, tiny_model
from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.table import PairTable
from truepair.data.tokens import train_wordpiece
from truepair.data.transforms import TransformConfig

PIXELS = {"size": {"height": 16, "width": 16}, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
WIDTHS = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def preprocessing_of(table: PairTable, **changes: object) -> OwnPreprocessing:
    """A tokenizer trained on the table's captions, and images of 16 x 16."""
    texts = [text for captions in table.rows["captions"] for text in captions]
    transform = TransformConfig(size=16, normalisation="none", rand_augment_ops=0)
    fields = {"max_length": 12, "add_sep": True, "normalise": True, "transform": transform} | changes
    return OwnPreprocessing(train_wordpiece(texts, 60, min_frequency=1), **fields)  # type: ignore[arg-type]


def save_albef(folder: Path, table: PairTable, *, seed: int = 0, **options: object) -> Path:
    """One of our own models and its preprocessing."""
    tiny_model(seed, image_encoder=VIT, **options).save_pretrained(folder)
    preprocessing_of(table).save(folder)
    return folder


def save_blip(folder: Path, table: PairTable) -> Path:
    """A BLIP for image-text matching."""
    tokenizer = preprocessing_of(table).tokenizer
    text = {**WIDTHS, "vocab_size": len(tokenizer), "encoder_hidden_size": 24, "max_position_embeddings": 20}
    text |= {"bos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0, "initializer_range": 0.5}
    vision = {**WIDTHS, "hidden_size": 24, "image_size": 16, "patch_size": 8, "initializer_range": 0.5}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BlipConfig(text_config=text, vision_config=vision, projection_dim=8, image_text_hidden_size=8)
        BlipForImageTextRetrieval(config).save_pretrained(folder)
    BlipImageProcessor(**PIXELS).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_clip(folder: Path, table: PairTable) -> Path:
    """A CLIP."""
    tokenizer = preprocessing_of(table).tokenizer
    text = {**WIDTHS, "vocab_size": len(tokenizer), "max_position_embeddings": 20, "eos_token_id": 3, "bos_token_id": 2}
    vision = {**WIDTHS, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text | {"pad_token_id": 0}, vision_config=vision, projection_dim=8)
        CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(**PIXELS, do_resize=True, do_center_crop=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_blip2(folder: Path, table: PairTable) -> Path:
    """A BLIP-2 for image-text matching."""
    tokenizer = preprocessing_of(table).tokenizer
    qformer = {**WIDTHS, "vocab_size": len(tokenizer), "max_position_embeddings": 20, "encoder_hidden_size": 24}
    qformer |= {"use_qformer_text_input": True, "initializer_range": 0.5, "cross_attention_frequency": 1}
    vision = {**WIDTHS, "hidden_size": 24, "image_size": 16, "patch_size": 8, "initializer_range": 0.5}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Blip2Config(vision_config=vision, qformer_config=qformer, num_query_tokens=3, image_text_hidden_size=8)
        model = Blip2ForImageTextRetrieval(config)
        torch.nn.init.normal_(model.query_tokens)  # else all queries are the same
        model.save_pretrained(folder)
    BlipImageProcessor(**PIXELS).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
