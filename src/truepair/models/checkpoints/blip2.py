"""A BLIP-2 of the first stage before its training: a vision tower, a Q-Former that starts from a BERT, queries."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2QFormerConfig, Blip2VisionConfig

from truepair.errors import CheckpointError, ConfigError, nearest, shortened
from truepair.models.checkpoints.bert import bert_config, bert_weights
from truepair.models.encoders.base import ImageEncoder, require_known_fields
from truepair.models.encoders.vision_tower import VisionTower
from truepair.models.fusion.blip2 import Blip2FusionModel

SIZES: Mapping[str, Mapping[str, Any]] = {
    # From scratch on a laptop: ViT with 64 px images, and two Q-Former layers that all read the image.
    "tiny": {
        "vision_config": {
            "image_size": 64,
            "patch_size": 8,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
        },
        "qformer_config": {
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "max_position_embeddings": 128,
            "cross_attention_frequency": 1,
            "initializer_range": 0.09,  # 1 / sqrt(128); with the 0.02 of BERT, for 768, all attention starts even
        },
        "num_query_tokens": 8,
        "image_text_hidden_size": 128,
    },
    # ViT-S/16 at 224 px, and a Q-Former of the sizes of MiniLM.
    "small": {
        "vision_config": {
            "image_size": 224,
            "patch_size": 16,
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
        },
        "qformer_config": {
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
            "initializer_range": 0.05,
        },
    },
    # The Q-Former of the paper, a BERT-base, with a ViT-L/14 at 224 px.
    "base": {
        "vision_config": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
        "qformer_config": {},
    },
}

_PARTS = {"vision_config": Blip2VisionConfig, "qformer_config": Blip2QFormerConfig}

_OWN_FIELDS = ("num_query_tokens", "image_text_hidden_size", "itm_product")

_FROM_BERT = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "layer_norm_eps",
    "pad_token_id",
    "initializer_range",
)

_SPREAD = 0.02  # of the weights that start at random; transformers starts queries at 0, all of them alike

_ATTENTION = ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")

_VITS = ("vit", "blip_vision_model")

_VIT = {
    "layernorm_before": "layer_norm1",
    "layernorm_after": "layer_norm2",
    "attention.o_proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


QUERIES_DRAWN = "the queries of {} are all alike, as in a model that was never trained: they are drawn at random"
"""What a run says where `part_queries` did something."""


def new_blip2(
    size: str,
    options: Mapping[str, Any],
    vocab_size: int,
    start: int | None,
    *,
    vision: ImageEncoder | None = None,
    bert: str | Path | None = None,
) -> Blip2FusionModel:
    """A BLIP-2 to train.

    Args:
        size: "tiny", "small" or "base".
        options: Fields that replace the size's: ``num_query_tokens``, ``image_text_hidden_size``, ``itm_product``, and
            of the parts, in ``vision_config`` and ``qformer_config``.
        vocab_size: V, the entries of the tokenizer.
        start: Id of [DEC].
        vision: The image tower; its sizes count. A ViT becomes the vision model of the class, which computes the same;
            any other encoder stands in its place.
        bert: Folder or name of a BERT that the Q-Former starts from, the feed-forward blocks of the queries included;
            its sizes count. Cross-attention and queries start at random, as in the paper.

    Raises:
        ConfigError: A size or field that does not exist, or no model can be made of them.
        CheckpointError: Vision tower or BERT do not fit.
    """
    fields = _fields(size, options)
    vision_fields, qformer_fields = fields["vision_config"], fields["qformer_config"]
    vit = vision if isinstance(vision, VisionTower) and vision.model.config.model_type in _VITS else None
    if vision is not None:
        vision_fields |= _in_its_place(vision) if vit is None else _vit_sizes(vit)
    if bert is not None:
        given, known = bert_config(bert), dict(options.get("qformer_config", {}))
        qformer_fields |= {name: getattr(given, name) for name in _FROM_BERT} | known
    qformer_fields |= {"vocab_size": vocab_size, "use_qformer_text_input": True}
    vision_fields.setdefault("initializer_range", _SPREAD)
    try:
        model = Blip2ForImageTextRetrieval(Blip2Config(**fields))
    except Exception as error:  # transformers checks few values before it computes with them
        raise ConfigError(f"model.options: no BLIP-2 can be made of them: {shortened(error)}") from error
    part_queries(model.query_tokens)
    if vit is not None:
        model.vision_model.load_state_dict(_vit_weights(vit))
    made = Blip2FusionModel(model, start, vision if vit is None else None)
    if bert is not None:
        _take_bert(made, bert)
    return made


@torch.no_grad()
def part_queries(queries: Tensor) -> bool:
    """Draw queries anew that are all zero, or all alike, as transformers makes those of a new model.

    All of them would read the same of an image, and learn the same; and at zero gradients are not finite.

    Args:
        queries: [1, Q, D], changed in place.

    Returns:
        Whether they were.
    """
    alike = len(queries[0]) > 1 and bool((queries == queries[:, :1]).all())
    if queries.any() and not alike:
        return False
    torch.nn.init.normal_(queries, std=_SPREAD)
    return True


def _fields(size: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a size with some replaced, those of the parts by name.

    Raises:
        ConfigError: A size or a field does not exist.
    """
    if size not in SIZES:
        raise ConfigError(f"there is no model size '{size}'{nearest(size, SIZES)}; give {', '.join(SIZES)}")
    require_known_fields(options, [*_PARTS, *_OWN_FIELDS], "BLIP-2")
    fields = copy.deepcopy(dict(SIZES[size]))
    for name, value in options.items():
        if name not in _PARTS:
            fields[name] = value
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(f"model.options.{name} is {value!r}; give fields of {_PARTS[name].__name__}")
        require_known_fields(value, list(_PARTS[name]().to_dict()), _PARTS[name].__name__)
        fields[name] |= value
    if not isinstance(fields.get("itm_product", False), bool):
        raise ConfigError(f"model.options.itm_product is {fields['itm_product']!r}; give true or false")
    if "vocab_size" in fields["qformer_config"]:
        raise ConfigError("model.options.qformer_config.vocab_size is that of the tokenizer; drop it")
    return fields


def _in_its_place(vision: ImageEncoder) -> dict[str, Any]:
    """The fields of `Blip2VisionConfig` where another encoder stands: what the Q-Former reads, and next to nothing."""
    size = vision.image_size
    empty = {"num_hidden_layers": 0, "num_attention_heads": 1, "intermediate_size": 1}
    return {"image_size": size, "patch_size": size, "hidden_size": vision.width, **empty}


def _vit_sizes(vision: VisionTower) -> dict[str, Any]:
    """The fields of `Blip2VisionConfig` that a ViT needs."""
    config = vision.model.config
    return {
        "image_size": vision.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
    }


def _vit_weights(vision: VisionTower) -> dict[str, Tensor]:
    """The weights of a ViT under the names of `Blip2VisionModel`, which computes the same."""
    state: dict[str, Tensor] = dict(vision.model.state_dict())
    if vision.model.config.model_type == "blip_vision_model":
        return state
    named = {
        "embeddings.class_embedding": state["embeddings.cls_token"],
        "embeddings.position_embedding": state["embeddings.position_embeddings"],
    }
    for kind in ("weight", "bias"):
        named[f"embeddings.patch_embedding.{kind}"] = state[f"embeddings.patch_embeddings.projection.{kind}"]
        named[f"post_layernorm.{kind}"] = state[f"layernorm.{kind}"]
        for number in range(vision.model.config.num_hidden_layers):
            theirs, ours = f"layers.{number}", f"encoder.layers.{number}"
            parts = [state[f"{theirs}.attention.{part}_proj.{kind}"] for part in "qkv"]
            named[f"{ours}.self_attn.qkv.{kind}"] = torch.cat(parts)
            for name, our_name in _VIT.items():
                named[f"{ours}.{our_name}.{kind}"] = state[f"{theirs}.{name}.{kind}"]
    return named


@torch.no_grad()
def _take_bert(model: Blip2FusionModel, source: str | Path) -> None:
    """Copy a BERT into the Q-Former: reading a text alone, it is that BERT; and its vocabulary head, if it has one.

    Raises:
        CheckpointError: It does not fit.
    """
    found, own = bert_weights(source), model.state_dict()
    words, first_type = found["embeddings.word_embeddings.weight"], found["embeddings.token_type_embeddings.weight"][0]
    table = own["model.embeddings.word_embeddings.weight"].clone()
    if len(table) < len(words):
        raise CheckpointError(
            f"{source} knows {len(words)} tokens and the tokenizer {len(table)}; set text.tokenizer to that folder"
        )
    table[: len(words)] = words  # tokens that were added, as [DEC], keep what they start with
    taken = {
        "model.embeddings.word_embeddings.weight": table,
        "model.embeddings.position_embeddings.weight": found["embeddings.position_embeddings.weight"] + first_type,
    }
    for kind in ("weight", "bias"):
        taken[f"model.qformer.layernorm.{kind}"] = found[f"embeddings.LayerNorm.{kind}"]
        for number in range(model.model.config.qformer_config.num_hidden_layers):
            theirs, ours = f"encoder.layer.{number}", f"model.qformer.encoder.layer.{number}"
            for part in _ATTENTION:
                name = f"{theirs}.attention.{part}.{kind}"
                if name not in found:
                    raise CheckpointError(f"{source} has no {name}, which the Q-Former needs: use fewer layers")
                taken[f"{ours}.attention.{part.replace('self.', 'attention.')}.{kind}"] = found[name]
            for side in ("", "_query"):
                taken[f"{ours}.intermediate{side}.dense.{kind}"] = found[f"{theirs}.intermediate.dense.{kind}"]
                for part in ("dense", "LayerNorm"):
                    taken[f"{ours}.output{side}.{part}.{kind}"] = found[f"{theirs}.output.{part}.{kind}"]
            head = f"cls.predictions.transform.{{}}.{kind}"
            for part in ("dense", "LayerNorm"):
                if head.format(part) in found:
                    taken[f"itg_head.transform.{part}.{kind}"] = found[head.format(part)]
                    model.itg_fresh = False
    for name, tensor in taken.items():
        if own[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: {name} is {list(tensor.shape)} there and {list(own[name].shape)} in this model; give the "
                "model the sizes of the checkpoint"
            )
    model.load_state_dict(taken, strict=False)
