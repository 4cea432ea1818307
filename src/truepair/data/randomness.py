"""Counter-based randomness: what is drawn for a sample is a pure function of its keys, not of earlier draws."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stable_hash(*keys: int | str) -> int:
    """Hash a sequence of integers and strings to 63 bits, the same in every process and on every machine.

    The code is free of ambiguity: ``("ab", "c")``, ``("a", "bc")`` and ``("abc",)`` differ, and so do 1 and "1".

    Returns:
        63 bits of blake2b, a non-negative int64.
    """
    state = hashlib.blake2b(digest_size=8)
    for key in keys:
        coded = f"i{key}".encode() if isinstance(key, int) else b"s" + key.encode("utf-8", "surrogatepass")
        state.update(len(coded).to_bytes(8, "big"))
        state.update(coded)
    return int.from_bytes(state.digest(), "big") >> 1


def keyed_generator(*keys: int | str) -> torch.Generator:
    """CPU generator whose stream is a pure function of the keys, for example (seed, epoch, sample id, "augment").

    torch's CPU generator uses the lowest 32 bits of its seed. Two samples of a large set can therefore draw alike,
    which is harmless for augmentation.
    """
    return torch.Generator().manual_seed(stable_hash(*keys))


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
