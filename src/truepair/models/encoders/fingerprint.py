"""Fingerprints of encoders, and of what captions and images become on their way to them."""

import hashlib
import json
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from truepair.data.preprocessing import Preprocessing

_SIMPLE = (bool, int, float, str, tuple, type(None))

# Attributes and config fields that do not change what an encoder computes; some tell a loaded one from one just built.
_IGNORED = {
    "_is_hf_initialized",
    "_name_or_path",
    "architectures",
    "dtype",
    "frozen",
    "grad_checkpointing",
    "gradient_checkpointing",
    "name_or_path",
    "training",
    "transformers_version",
}

# Class names as keys know them: caches and calibrations outlive a better name.
_FORMER_NAMES = {"RecomputingMlp": "LeanMlp", "RecomputingLayer": "LeanLayer"}


def encoder_fingerprint(encoder: nn.Module) -> str:
    """A key of everything that decides what an encoder in evaluation mode computes.

    That is its weights and buffers (names, types, shapes, bytes), its config, and the simple attributes of its modules:
    heads, strides, epsilons, which weights do not tell. About a second per gigabyte.

    Returns:
        32 hexadecimal digits.
    """
    state = hashlib.blake2b(digest_size=16)
    for name, module in encoder.named_modules():
        kind = type(module).__qualname__
        state.update(f"{name} {_FORMER_NAMES.get(kind, kind)} {json.dumps(_settings(module), default=str)}".encode())
    _take_weights(state, encoder)
    return state.hexdigest()


def weights_fingerprint(module: nn.Module) -> str:
    """A key of the weights and buffers of a module (names, types, shapes, bytes): about a second per gigabyte.

    Returns:
        32 hexadecimal digits.
    """
    state = hashlib.blake2b(digest_size=16)
    _take_weights(state, module)
    return state.hexdigest()


def _take_weights(state: "hashlib.blake2b", module: nn.Module) -> None:
    """Take weights and buffers into a hash."""
    for name, tensor in module.state_dict().items():
        plain = tensor.detach().cpu().contiguous()
        state.update(f"{name} {plain.dtype} {list(plain.shape)}".encode())
        state.update(plain.flatten().view(torch.uint8).numpy())


def _settings(module: nn.Module) -> dict[str, Any]:
    """The config of a transformers model (its attributes tell how it was loaded); else the simple attributes."""
    if isinstance(module, PreTrainedModel):
        found = module.config.to_dict()
    else:
        found = {key: value for key, value in vars(module).items() if isinstance(value, _SIMPLE)}
        if isinstance(config := getattr(module, "config", None), dict):
            found["config"] = config
    return {key: found[key] for key in sorted(found) if key not in _IGNORED}


def combined_key(**parts: Any) -> str:
    """One key of several named parts: JSON types, bytes, or tensors.

    Returns:
        32 hexadecimal digits.
    """
    state = hashlib.blake2b(digest_size=16)
    for name, part in sorted(parts.items()):
        if isinstance(part, torch.Tensor):
            part = f"{part.dtype} {list(part.shape)} ".encode() + part.detach().cpu().contiguous().numpy().tobytes()
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        state.update(f"{name} {len(data)} ".encode())
        state.update(data)
    return state.hexdigest()


def caption_input_key(preprocessing: Preprocessing) -> str:
    """Equal keys, equal tokens of any caption."""
    return combined_key(**preprocessing.caption_settings())


def image_input_key(preprocessing: Preprocessing) -> str:
    """Equal keys, equal pixels of any unaugmented image; "encoder" normalisation also depends on the encoder."""
    return combined_key(**preprocessing.image_settings())
