"""How the parameters of a BERT are called, and how the same ones are called here."""

_EMBEDDINGS = {
    "word_embeddings.weight": "word_embeddings.weight",
    "position_embeddings.weight": "position_embeddings.weight",
    "token_type_embeddings.weight": "token_type_embeddings.weight",
    "LayerNorm.weight": "norm.weight",
    "LayerNorm.bias": "norm.bias",
}
_ATTENTION = {
    "self.query": "query",
    "self.key": "key",
    "self.value": "value",
    "output.dense": "output",
    "output.LayerNorm": "norm",
}
_FEED_FORWARD = {"intermediate.dense": "expand", "output.dense": "contract", "output.LayerNorm": "norm"}
_VOCABULARY_HEAD = {
    "transform.dense.weight": "transform.weight",
    "transform.dense.bias": "transform.bias",
    "transform.LayerNorm.weight": "norm.weight",
    "transform.LayerNorm.bias": "norm.bias",
    "decoder.weight": "decoder.weight",
    "decoder.bias": "decoder.bias",
    "bias": "decoder.bias",
}


def text_names(text_layers: int, fusion_layers: int, cross_attention: bool) -> dict[str, str]:
    """Names of a BERT's embeddings and layers, and what they are called in `AlbefModel`.

    Args:
        text_layers: How many layers, from the first, belong to the text encoder.
        fusion_layers: How many of the following layers belong to the fusion encoder.
        cross_attention: Whether those have cross-attention under BERT's name for it, `crossattention`.

    Returns:
        BERT name (without a prefix such as `bert.`) to our name.
    """
    names = {f"embeddings.{bert}": f"text_encoder.embeddings.{ours}" for bert, ours in _EMBEDDINGS.items()}
    for number in range(text_layers + fusion_layers):
        fusion = number >= text_layers
        layer = f"fusion_encoder.layers.{number - text_layers}" if fusion else f"text_encoder.layers.{number}"
        blocks = {f"attention.{bert}": f"self_attention.{ours}" for bert, ours in _ATTENTION.items()}
        if fusion and cross_attention:
            blocks |= {f"crossattention.{bert}": f"cross_attention.{ours}" for bert, ours in _ATTENTION.items()}
        blocks |= {bert: f"feed_forward.{ours}" for bert, ours in _FEED_FORWARD.items()}
        for bert, ours in blocks.items():
            for kind in ("weight", "bias"):
                names[f"encoder.layer.{number}.{bert}.{kind}"] = f"{layer}.{ours}.{kind}"
    return names


def vocabulary_names() -> dict[str, str]:
    """Names of BERT's vocabulary head, and what they are called in `AlbefModel`; its bias has two names in BERT."""
    return {f"cls.predictions.{bert}": f"mlm_head.{ours}" for bert, ours in _VOCABULARY_HEAD.items()}
