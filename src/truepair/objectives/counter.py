"""Counter-based randomness on tensors: a number is a pure function of its keys.

A draw keyed by (seed, epoch, sample id) does not depend on the worker, the rank, the batch a sample lands in, or the
device. The mixing step is the 64-bit finaliser of SplitMix64 (Steele, Lea and Flood, 2014), on wrapping int64 tensors.
"""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_MANTISSA = 24  # bits of a float32 significand: every draw is an exact float32 below 1


def sample_keys(*parts: int | Tensor, device: torch.device | str | None = None) -> Tensor:
    """Fold integers and integer tensors into one int64 key per sample.

    Args:
        *parts: For example seed, epoch, sample ids [B]; order matters; scalars and tensors broadcast.
        device: Device of the keys when no part is a tensor.

    Returns:
        Keys of the broadcast shape, int64.
    """
    tensors = [part for part in parts if isinstance(part, Tensor)]
    key = torch.zeros((), dtype=torch.long, device=tensors[0].device if tensors else device)
    for part in parts:
        value = part.long() if isinstance(part, Tensor) else _wrapped(part)
        key = _mixed(key * _MIX_1 + value + _GOLDEN)
    return key


def keyed_uniform(keys: Tensor, count: int, stream: int = 0) -> Tensor:
    """Uniform numbers in [0, 1) for each key.

    Args:
        keys: From :func:`sample_keys`, int64 [B].
        count: How many numbers per key.
        stream: Different streams of one key are independent.

    Returns:
        float32 [B, count].
    """
    return _draws(keys, count, stream).float() * 2.0**-_MANTISSA


def keyed_integers(keys: Tensor, count: int, below: int, stream: int = 0) -> Tensor:
    """Uniform integers from 0 to ``below`` - 1 for each key, without floating point, which could round up to ``below``.

    Args:
        keys: From :func:`sample_keys`, int64 [B].
        count: How many numbers per key.
        below: Up to 2 ** 24.
        stream: Different streams of one key are independent.

    Returns:
        int64 [B, count].
    """
    return (_draws(keys, count, stream) * below) >> _MANTISSA


def _draws(keys: Tensor, count: int, stream: int) -> Tensor:
    """Integers of ``_MANTISSA`` random bits [B, count]."""
    position = torch.arange(count, device=keys.device)
    return _shifted(sample_keys(keys.unsqueeze(1), stream, position), 64 - _MANTISSA)


def _wrapped(value: int) -> int:
    """A Python integer as a signed 64-bit one."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: int64 tensors only know the arithmetic one."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    return x ^ _shifted(x, 31)
