"""BERT checkpoints as text and fusion layers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig, BertForMaskedLM

from truepair.errors import CheckpointError
from truepair.loading import LOADING_ERRORS, why_not_loaded
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig

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


@dataclass(frozen=True)
class BertReport:
    """What became of the parameters when a BERT was loaded."""

    source: str
    """The checkpoint."""
    loaded: tuple[str, ...]
    """Our names of the parameters that were copied."""
    fresh: tuple[str, ...]
    """Our names of the text, fusion and vocabulary-head parameters that keep their initial values."""
    unused: tuple[str, ...]
    """Names in the BERT that have no place here, such as layers beyond the last fusion layer."""

    def __str__(self) -> str:
        fresh = sorted({_part(name) for name in self.fresh})
        return (
            f"{self.source}: {len(self.loaded)} parameters loaded; {len(self.fresh)} start fresh "
            f"({', '.join(fresh) or 'none'}); {len(self.unused)} of the checkpoint not used."
        )


def albef_from_bert(source: str | Path, **config_fields: Any) -> tuple[AlbefModel, BertReport]:
    """A model with the sizes and weights of a BERT: its first layers encode text, the following ones fuse.

    Args:
        source: Folder or hub name of a BERT, as `transformers` saves it.
        **config_fields: Fields of `AlbefConfig` that replace those of the BERT. Without `text_layers` and
            `fusion_layers`, the first half of the layers (rounded down, at least one) encodes text, and the rest fuses.

    Returns:
        The model, and the report of what was loaded and what starts fresh (always the cross-attention).

    Raises:
        CheckpointError: when the source is missing, is no BERT, or does not fit the fields.
    """
    bert = bert_config(source)
    text_layers = max(1, bert.num_hidden_layers // 2)
    fields: dict[str, Any] = {
        name: getattr(bert, name)
        for name in (
            "vocab_size",
            "hidden_size",
            "num_attention_heads",
            "intermediate_size",
            "hidden_act",
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "max_position_embeddings",
            "type_vocab_size",
            "layer_norm_eps",
            "initializer_range",
            "pad_token_id",
        )
    }
    fields |= {"text_layers": text_layers, "fusion_layers": bert.num_hidden_layers - text_layers}
    model = AlbefModel(AlbefConfig(**{**fields, **config_fields}))
    return model, load_bert(model, source)


def load_bert(model: AlbefModel, source: str | Path) -> BertReport:
    """Copy a BERT's embeddings, layers and (if both have one) vocabulary head into a model of the same sizes.

    The first layers go to the text encoder, the following ones to the fusion encoder. Where the BERT has fewer layers
    than both together, the fusion encoder starts from its last ones, so some start both. The cross-attention has no
    counterpart in a BERT and keeps its initial values; the report lists all such parameters.

    Args:
        model: Changed in place.
        source: Folder or hub name of a BERT, as `transformers` saves it.

    Raises:
        CheckpointError: when the source is missing, is no BERT, or has other sizes than the model.
    """
    config = model.config
    found = bert_weights(source)
    names = _our_names(config, bert_config(source).num_hidden_layers)
    needed = {bert for bert, _ in names}
    if absent := sorted(needed - set(found)):
        raise CheckpointError(
            f"{source} has no {absent[0]}, which {config.text_layers} text and {config.fusion_layers} fusion layers "
            "need: use fewer layers."
        )
    if config.mlm_head:
        names += vocabulary_names().items()
    ours = {our: found[bert] for bert, our in names if bert in found}
    own = model.state_dict()
    for name, tensor in ours.items():
        if own[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: {name} is {list(tensor.shape)} there and {list(own[name].shape)} in this model: "
                "give the model the sizes of the checkpoint."
            )
    model.load_state_dict(ours, strict=False)
    parts = ("text_encoder.", "fusion_encoder.", "mlm_head.")
    fresh = tuple(name for name in own if name.startswith(parts) and name not in ours)
    return BertReport(str(source), tuple(ours), fresh, tuple(sorted(set(found) - {bert for bert, _ in names})))


def _our_names(config: AlbefConfig, bert_layers: int) -> list[tuple[str, str]]:
    """BERT names of embeddings and layers with our names; a layer that starts two of ours is there twice."""
    text = text_names(config.text_layers, 0, cross_attention=False)
    first = min(config.text_layers, max(0, bert_layers - config.fusion_layers))
    following = text_names(first, config.fusion_layers, cross_attention=False)
    fusion = {bert: our for bert, our in following.items() if our.startswith("fusion_encoder.")}
    return [*text.items(), *fusion.items()]


def bert_config(source: str | Path) -> Any:
    """The config of a BERT.

    Raises:
        CheckpointError: there is none, or it is of another kind.
    """
    try:
        config = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise CheckpointError(f"{source} is not a readable checkpoint: {why_not_loaded(error)}") from error
    if config.model_type != "bert":
        raise CheckpointError(f"{source} is a {config.model_type} model; text and fusion layers need a BERT.")
    return config


def bert_weights(source: str | Path) -> dict[str, Tensor]:
    """The weights of a BERT by their names without the prefix ``bert.``, and of its vocabulary head if it has one.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    config = bert_config(source)
    try:
        bert, info = BertForMaskedLM.from_pretrained(
            str(source), config=config, output_loading_info=True, trust_remote_code=False
        )
    except LOADING_ERRORS as error:
        raise CheckpointError(f"{source} cannot be loaded as a BERT: {why_not_loaded(error)}") from error
    missing = set(info["missing_keys"])
    return {name.removeprefix("bert."): tensor for name, tensor in bert.state_dict().items() if name not in missing}


def _part(name: str) -> str:
    pieces = [piece for piece in name.split(".") if not piece.isdigit() and piece != "layers"]
    return ".".join(pieces[:2]) if pieces[0] != "mlm_head" else "mlm_head"
