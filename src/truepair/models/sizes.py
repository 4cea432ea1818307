"""Named model sizes: the fields of `AlbefConfig` that make them."""

from collections.abc import Mapping
from typing import Any

_VIT_BASE: dict[str, Any] = {
    "model_type": "vit",
    "image_size": 256,
    "patch_size": 16,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-6,
}

SIZES: Mapping[str, Mapping[str, Any]] = {
    # From scratch on a laptop: about 5 M parameters with a vocabulary of 30,522.
    "tiny": {
        "image_encoder": {
            "model_type": "vit",
            "image_size": 64,
            "patch_size": 8,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "layer_norm_eps": 1e-6,
        },
        "hidden_size": 128,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "text_layers": 2,
        "fusion_layers": 2,
        "max_position_embeddings": 128,
        "embed_dim": 128,
    },
    # ViT-S/16 at 224 px, and text and fusion of the width of MiniLM.
    "small": {
        "image_encoder": {
            "model_type": "vit",
            "image_size": 224,
            "patch_size": 16,
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "layer_norm_eps": 1e-6,
        },
        "hidden_size": 384,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "text_layers": 3,
        "fusion_layers": 3,
        "embed_dim": 256,
    },
    # ALBEF, GRIT-VLP and MAFA: ViT-B/16 at 256 px, BERT-base as 6 text and 6 fusion layers.
    "base": {"image_encoder": _VIT_BASE},
}
