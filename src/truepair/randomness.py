"""Counter-based randomness: what is drawn is a pure function of its keys.

Two kinds. :func:`stable_hash` takes integers and texts on the host, and seeds generators; :func:`stable_hashes` takes
many at once. :func:`sample_keys` takes
integer tensors on their device, and its keys are the counters of :func:`keyed_uniform` and :func:`keyed_integers`; all
of these mix bits with :func:`splitmix64`.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import repeat
from operator import add

import numpy as np
import torch
from torch import Tensor


def stable_hash(*keys: int | str) -> int:
    """Hash a sequence of integers and strings to 63 bits, the same in every process and on every machine.

    The code is free of ambiguity: ``("ab", "c")``, ``("a", "bc")`` and ``("abc",)`` differ, and so do 1 and "1".

    Returns:
        63 bits of blake2b, a non-negative int64.
    """
    parts = []
    for key in keys:
        coded = b"i%d" % key if isinstance(key, int) else b"s" + key.encode("utf-8", "surrogatepass")
        parts += [len(coded).to_bytes(8, "big"), coded]
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "big") >> 1


def stable_hashes(first: str, *keys: int | list[int] | list[str]) -> list[int]:
    """The :func:`stable_hash` of many sequences of keys, in a third of the time.

    Args:
        first: the first key of all of them.
        *keys: further ones: an integer that all have, or a list with one for each of N > 0; at least one list.

    Returns:
        N hashes.
    """
    start = hashlib.blake2b(_coded([first])[0], digest_size=8)
    data = [b""] * next(len(key) for key in keys if isinstance(key, list))
    for key in keys:
        data = list(map(add, data, _coded(key) if isinstance(key, list) else repeat(_coded([key])[0])))
    digests = []
    for rest in data:
        state = start.copy()  # in half the time of a new one
        state.update(rest)
        digests.append(state.digest())
    numbers: list[int] = (np.frombuffer(b"".join(digests), ">u8") >> np.uint64(1)).tolist()
    return numbers


def _coded(keys: list[int] | list[str]) -> list[bytes]:
    """Integers or texts as :func:`stable_hash` reads them."""
    coded = [
        f"i{key}".encode() if isinstance(key, int) else b"s" + key.encode("utf-8", "surrogatepass") for key in keys
    ]
    return list(map(add, map(_length, map(len, coded)), coded))


@cache
def _length(count: int) -> bytes:
    return count.to_bytes(8, "big")


def seed_generators(*keys: int | str) -> None:
    """Set torch's global generators, of the CPU and of the accelerator if there is one.

    ``torch.manual_seed`` writes out the stack for each kind of accelerator that is not there: a hundredth of a step on
    cached states.
    """
    seed = stable_hash(*keys)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def isolated_rng(*keys: int | str) -> Iterator[None]:
    """Let code that draws from torch's global CPU generator draw from a keyed stream, and put the generator back after.

    torchvision's v2 transforms take no generator. ``torch.manual_seed`` would also reseed every accelerator, so only
    the CPU generator is touched.
    """
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(stable_hash(*keys))
    try:
        yield
    finally:
        generator.set_state(state)


GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
"""What SplitMix64 counts by: 2 ** 64 over the golden ratio, as a signed number."""

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
        key = splitmix64(key * _MIX_1 + value + GOLDEN)
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
    return unit_interval(_bits(keys, count, stream))


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
    return (_leading_bits(_bits(keys, count, stream)) * below) >> _MANTISSA


def splitmix64(x: Tensor) -> Tensor:
    """Mix 64 bits so that each depends on all: the finaliser of SplitMix64 (Steele et al. 2014), one to one.

    Args:
        x: int64 of any shape.

    Returns:
        int64 of the same shape.
    """
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    return x ^ _shifted(x, 31)


def unit_interval(bits: Tensor) -> Tensor:
    """Numbers in [0, 1) from the leading bits of integers whose bits are random.

    Args:
        bits: int64 of any shape, such as :func:`splitmix64` gives.

    Returns:
        float32 of the same shape; every number is exact.
    """
    return _leading_bits(bits).float() * 2.0**-_MANTISSA


def _bits(keys: Tensor, count: int, stream: int) -> Tensor:
    """Random bits, int64 [B, count]."""
    return sample_keys(keys.unsqueeze(1), stream, torch.arange(count, device=keys.device))


def _leading_bits(bits: Tensor) -> Tensor:
    """Integers of the leading ``_MANTISSA`` bits, of the same shape."""
    return _shifted(bits, 64 - _MANTISSA)


def _wrapped(value: int) -> int:
    """A Python integer as a signed 64-bit one."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: int64 tensors only know the arithmetic one."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
