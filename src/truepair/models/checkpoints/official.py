"""Checkpoints under the official ALBEF parameter names (ALBEF, GRIT-VLP and MAFA share them), to our model and back.

Vision names are those of a timm ViT with fused query, key and value; text names are those of a BERT whose last layers
have `crossattention`. A pre-training checkpoint wraps the BERT as `text_encoder.bert.*` with a head
`text_encoder.cls.*`; a retrieval checkpoint has it bare as `text_encoder.*`.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ViTConfig

from truepair.errors import CheckpointError, ConfigError
from truepair.models.checkpoints.bert import text_names, vocabulary_names
from truepair.models.checkpoints.tensors import read_checkpoint
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig

_IMAGE = "image_encoder.model"

_VISION = {"norm": "layernorm", "patch_embed.proj": "embeddings.patch_embeddings.projection"}

_VISION_LAYER = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}

# Buffers, and momentum copies and feature queues of the official training; nothing here is computed from them.
POSITION_IDS = re.compile(r"(.*\.)?position_ids")
OF_TRAINING = re.compile(
    r"(visual_encoder|text_encoder|vision_proj|text_proj)_m\..*|(image|text|idx)_queue|queue_ptr|ptr_queue"
)


def load_official(source: str | Path | Mapping[str, Tensor], **config_fields: Any) -> AlbefModel:
    """A model from a checkpoint under the official names. Sizes are read off the tensors, and every name must be used.

    Args:
        source: A `.safetensors` or official `.pth` file, a folder that holds `model.safetensors`, or the state dict.
            `open_checkpoint` reads more kinds of files, and adds the preprocessing.
        **config_fields: Fields of `AlbefConfig` that tensors do not tell, such as dropout probabilities. Without
            `num_attention_heads`, here or in a dict `image_encoder`, a head has 64 channels, as in every BERT-base and
            ViT-B.

    Returns:
        The model, in evaluation mode. Without a vocabulary head or projections if the checkpoint has none.

    Raises:
        CheckpointError: when the source cannot be read, or a name is missing, unknown or of a wrong shape.
    """
    state = source if isinstance(source, Mapping) else _read(Path(source))
    state = {name: tensor for name, tensor in state.items() if not is_left_out(name)}
    config = _infer_config(state, config_fields)
    names = official_names(config)
    _require_same_names(state, names)
    model = AlbefModel(config)
    ours: dict[str, Tensor] = {}
    for name, targets in names.items():
        pieces = state[name].tensor_split(len(targets)) if len(targets) > 1 else (state[name],)
        for target, piece in zip(targets, pieces, strict=True):
            if target in ours and not torch.equal(ours[target], piece):
                raise CheckpointError(f"{name} differs from its twin in this checkpoint; both name one parameter.")
            ours[target] = piece
    try:
        model.load_state_dict(ours)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint does not fit its own sizes: {_one_line(error)}") from error
    model.eval()
    return model


def to_official_names(model: AlbefModel) -> dict[str, Tensor]:
    """The parameters of a model under the official names, with the `position_ids` buffer that old programs ask for.

    Raises:
        ConfigError: when the model has parts that the official architecture has not.
    """
    config = model.config
    if config.itm_product or (config.image_pooling, config.text_pooling) != ("cls", "cls"):
        raise ConfigError("a model with itm_product or mean pooling has no official form: ALBEF reads [CLS] alone.")
    own = model.state_dict()
    names = official_names(config)
    if nameless := sorted(set(own) ^ {target for targets in names.values() for target in targets}):
        raise ConfigError(f"only a ViT and linear projections have official names; {nameless[0]} has none.")
    official = {
        name: torch.cat([own[target] for target in targets]) if len(targets) > 1 else own[targets[0]].clone()
        for name, targets in names.items()
    }
    positions = torch.arange(config.max_position_embeddings)[None]  # [1, P]
    official[f"{_text_prefix(config.mlm_head)}embeddings.position_ids"] = positions
    return official


def is_left_out(name: str) -> bool:
    """Whether a name is that of a buffer, a momentum copy or a queue of the official training."""
    return bool(POSITION_IDS.fullmatch(name) or OF_TRAINING.fullmatch(name))


def _text_prefix(wrapped: bool) -> str:
    return "text_encoder.bert." if wrapped else "text_encoder."


def official_names(config: AlbefConfig) -> dict[str, tuple[str, ...]]:
    """What each official name is called here.

    Args:
        config: A model with a ViT as image encoder and linear projections.

    Returns:
        Official name to ours. The fused query, key and value map to three of ours, to be joined along dimension 0; the
        two names of the vocabulary head's bias map to one.
    """
    names: dict[str, tuple[str, ...]] = {
        f"visual_encoder.{name}": (f"{_IMAGE}.{ours}",)
        for name, ours in (("cls_token", "embeddings.cls_token"), ("pos_embed", "embeddings.position_embeddings"))
    }
    modules: dict[str, tuple[str, ...]] = {
        f"visual_encoder.{name}": (f"{_IMAGE}.{ours}",) for name, ours in _VISION.items()
    }
    for number in range(_image_layers(config)):
        block, layer = f"visual_encoder.blocks.{number}", f"{_IMAGE}.layers.{number}"
        modules |= {f"{block}.{name}": (f"{layer}.{ours}",) for name, ours in _VISION_LAYER.items()}
        modules[f"{block}.attn.qkv"] = tuple(f"{layer}.attention.{part}_proj" for part in "qkv")
    modules["itm_head"] = ("itm_head.linear",)
    if config.contrastive_head:
        modules |= {"vision_proj": ("image_projection",), "text_proj": ("text_projection",)}
        names["temp"] = ("temp",)
    for kind in ("weight", "bias"):
        names |= {f"{name}.{kind}": tuple(f"{o}.{kind}" for o in ours) for name, ours in modules.items()}
    prefix = _text_prefix(config.mlm_head)
    text = text_names(config.text_layers, config.fusion_layers, cross_attention=True)
    names |= {f"{prefix}{name}": (ours,) for name, ours in text.items()}
    if config.mlm_head:
        names |= {f"text_encoder.{name}": (ours,) for name, ours in vocabulary_names().items()}
    return names


def _image_layers(config: AlbefConfig) -> int:
    # The config of a built encoder leaves out what equals the default.
    return int(config.image_encoder.get("num_hidden_layers", ViTConfig().num_hidden_layers))


def _require_same_names(state: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> None:
    if unknown := sorted(set(state) - set(names)):
        raise CheckpointError(f"the checkpoint has {len(unknown)} names that ALBEF has not: {', '.join(unknown[:5])}.")
    if missing := sorted(set(names) - set(state)):
        raise CheckpointError(f"the checkpoint lacks {len(missing)} names of ALBEF: {', '.join(missing[:5])}.")


def _infer_config(state: Mapping[str, Tensor], fields: Mapping[str, Any]) -> AlbefConfig:
    """The config whose sizes the tensors show."""
    mlm_head = any(name.startswith("text_encoder.bert.") for name in state)
    bert = _text_prefix(mlm_head)
    image_fields = fields.get("image_encoder") or {}
    vocabulary, width = shape_of(state, f"{bert}embeddings.word_embeddings.weight")
    image_width, _, patch, _ = shape_of(state, "visual_encoder.patch_embed.proj.weight", 4)
    patches = shape_of(state, "visual_encoder.pos_embed", 3)[1] - 1
    layers = count_numbers(state, rf"{re.escape(bert)}encoder\.layer\.(\d+)\.attention\..*")
    fusion_layers = count_numbers(state, rf"{re.escape(bert)}encoder\.layer\.(\d+)\.crossattention\..*")
    word, decoder = f"{bert}embeddings.word_embeddings.weight", "text_encoder.cls.predictions.decoder.weight"
    inferred: dict[str, Any] = {
        "image_encoder": {
            "model_type": "vit",
            "image_size": math.isqrt(patches) * patch,
            "patch_size": patch,
            "hidden_size": image_width,
            "num_hidden_layers": count_numbers(state, r"visual_encoder\.blocks\.(\d+)\..*"),
            "num_attention_heads": _heads(image_width, image_fields),
            "intermediate_size": shape_of(state, "visual_encoder.blocks.0.mlp.fc1.weight")[0],
            "layer_norm_eps": 1e-6,
            **image_fields,
        },
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": _heads(width, fields),
        "intermediate_size": shape_of(state, f"{bert}encoder.layer.0.intermediate.dense.weight")[0],
        "text_layers": layers - fusion_layers,
        "fusion_layers": fusion_layers,
        "max_position_embeddings": shape_of(state, f"{bert}embeddings.position_embeddings.weight")[0],
        "type_vocab_size": shape_of(state, f"{bert}embeddings.token_type_embeddings.weight")[0],
        "mlm_head": mlm_head,
        "contrastive_head": "vision_proj.weight" in state,
        "tie_word_embeddings": decoder in state and torch.equal(state[word], state[decoder]),
    }
    if inferred["contrastive_head"]:
        inferred["embed_dim"] = shape_of(state, "vision_proj.weight")[0]
    return AlbefConfig(**{**inferred, **{name: value for name, value in fields.items() if name != "image_encoder"}})


def shape_of(state: Mapping[str, Tensor], name: str, dimensions: int = 2) -> torch.Size:
    """The shape of a tensor that every checkpoint of ALBEF and BLIP has.

    Raises:
        CheckpointError: it is missing, or has another number of dimensions.
    """
    if name not in state:
        raise CheckpointError(f"the checkpoint has no {name}: it is not an official checkpoint of ALBEF or BLIP.")
    if state[name].dim() != dimensions:
        raise CheckpointError(f"{name} has {state[name].dim()} dimensions in this checkpoint, not {dimensions}.")
    return state[name].shape


def count_numbers(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers the first group of a pattern takes over all names."""
    return len({found[1] for name in state if (found := re.fullmatch(pattern, name))})


def _heads(width: int, fields: Mapping[str, Any]) -> int:
    if "num_attention_heads" in fields:
        return int(fields["num_attention_heads"])
    if width % 64:
        raise CheckpointError(f"{width} channels do not split into heads of 64: state num_attention_heads.")
    return width // 64


def _read(path: Path) -> Mapping[str, Tensor]:
    """The state dict of a file, or of `model.safetensors` in a folder."""
    entries = {
        e.path: e.tensors for e in read_checkpoint(path / "model.safetensors" if path.is_dir() else path).entries
    }
    return entries.get("model", next(iter(entries.values())))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
