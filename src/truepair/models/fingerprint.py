"""Short keys for encoders and data: equal keys, equal states."""

import hashlib
import json
from typing import Any

import torch
from torch import nn

_SIMPLE = (bool, int, float, str, tuple, type(None))
# Attributes and config fields that do not change what an encoder computes; some tell a loaded one from one just built.
_IGNORED = {
    "_is_hf_initialized",
    "_name_or_path",
    "architectures",
    "dtype",
    "frozen",
    "gradient_checkpointing",
    "name_or_path",
    "training",
    "transformers_version",
}


def encoder_fingerprint(encoder: nn.Module) -> str:
    """A key of everything that decides what an encoder in evaluation mode computes.

    That is its weights and buffers (names, types, shapes, bytes), its config if it has one, and the simple attributes
    of its
    modules: heads, strides, epsilons, which weights do not tell. About a second per gigabyte.

    Returns:
        32 hexadecimal digits.
    """
    state = hashlib.blake2b(digest_size=16)
    for name, module in encoder.named_modules():
        own = vars(module)
        simple = {key: own[key] for key in sorted(own) if isinstance(own[key], _SIMPLE) and key not in _IGNORED}
        state.update(f"{name} {type(module).__qualname__} {simple}".encode())
    config: Any = getattr(encoder, "config", {})
    fields = config if isinstance(config, dict) else config.to_dict()
    fields = {key: value for key, value in fields.items() if key not in _IGNORED}
    state.update(json.dumps(fields, sort_keys=True, default=str).encode())
    for name, tensor in encoder.state_dict().items():
        plain = tensor.detach().cpu().contiguous()
        state.update(f"{name} {plain.dtype} {list(plain.shape)}".encode())
        state.update(plain.flatten().view(torch.uint8).numpy())
    return state.hexdigest()


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
