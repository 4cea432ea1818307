"""Tiny language models with random weights, and a BLIP-2 that writes by one, as users would have them on disk."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tests.judges.tiny_judges import save_blip2
from truepair.data.table import PairTable
from truepair.data.tokens import starting_tokenizer, train_wordpiece
from truepair.models.checkpoints.blip2_language import join_language_model, new_language_model
from truepair.models.fusion.blip2 import open_blip2_folder

KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3},
    "opt": {
        **{"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 32, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "max_position_embeddings": 64, "init_std": 0.3},
    },
    "llama": {
        **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"max_position_embeddings": 64, "initializer_range": 0.3},
    },
    "qwen2": {
        **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3},
    },
}


def language_tokenizer(table: PairTable) -> PreTrainedTokenizerBase:
    """A tokenizer trained on the table's captions and on the words of a prompt."""
    return starting_tokenizer(train_wordpiece([*table.captions(), "a photo of one"] * 2, 90, min_frequency=1))


def save_language_model(folder: Path, table: PairTable, kind: str = "gpt2") -> Path:
    """A language model with its tokenizer."""
    tokenizer = language_tokenizer(table)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        new_language_model({"model_type": kind, **KINDS[kind]}, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_blip2_language(folder: Path, table: PairTable, kind: str = "gpt2") -> Path:
    """A BLIP-2 with a language model; its first stage lies beside it."""
    first, images = open_blip2_folder(str(save_blip2(folder.with_name(f"{folder.name}-first"), table)))
    tokenizer = language_tokenizer(table)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        language = new_language_model({"model_type": kind, **KINDS[kind]}, tokenizer)
        model, preprocessing = join_language_model(first, images.processor, language, tokenizer, kind)
        torch.nn.init.normal_(model.model.language_projection.weight, std=0.3)
    model.save_pretrained(folder)
    preprocessing.save(folder)
    return folder
