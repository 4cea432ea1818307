"""The tensors of a checkpoint file, whatever they are wrapped in; nothing of the file is ever run."""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from truepair.errors import CheckpointError, nearest

SUFFIXES = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".safetensors", ".tar")
"""Endings of the names of checkpoint files."""

_DEEPEST = 4  # dictionaries within dictionaries

# What programs wrap a model in while it trains, as one part of a name: DDP, torch.compile, FSDP, its checkpointing.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

# Entries whose tensors are of training, not of a model.
_OF_TRAINING = re.compile(r"optim.*|.*scheduler.*|scaler|amp|rng.*|.*_rng_state", re.IGNORECASE)

# Averages over a training, by the names that timm, DeiT and others give them.
_AVERAGE = re.compile(r"(.*[._])?(ema|averaged?|shadow|momentum|teacher)([._].*)?", re.IGNORECASE)

_UNKNOWN_CLASS = re.compile(r"Unsupported global: GLOBAL (\S+) was not an allowed global")


@dataclass(frozen=True)
class Entry:
    """A dictionary of a checkpoint file that holds tensors.

    Attributes:
        path: the keys that lead to it, joined by points; empty for the file itself.
        tensors: by name, without what DDP, torch.compile and FSDP put before it.
    """

    path: str
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class CheckpointFile:
    """What a checkpoint file holds.

    Attributes:
        file: where.
        entries: its dictionaries of tensors but those of an optimizer, in the file's order.
        run: the name of the run that wrote it, as open_clip's trainer states it; empty elsewhere.
        classes: names of classes in the file whose objects were not made.
    """

    file: Path
    entries: tuple[Entry, ...]
    run: str
    classes: tuple[str, ...]


class _Inert:
    """Stands for objects of classes that are none of ours to make: it keeps nothing of them."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertMapping:
    """The same, for objects that items are set of."""

    def __new__(cls, *arguments: Any) -> Any:
        """An empty dictionary, the only kind of which torch sets items."""
        return OrderedDict()


def read_checkpoint(file: Path) -> CheckpointFile:
    """Read a file of torch or safetensors.

    Torch's unpickler for weights alone reads it: it makes tensors and plain values. Objects of other classes, such as
    an ``argparse.Namespace`` of options, become empty stand-ins; their code is neither imported nor run.

    Raises:
        CheckpointError: the file is missing, damaged, or no checkpoint.
    """
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}; check the path")
    loaded, classes = _safetensors(file) if file.suffix == ".safetensors" else _torch(file)
    entries = tuple(entry for entry in _entries(loaded) if entry.tensors)
    if not entries:
        raise CheckpointError(
            f"{file} holds no tensors by name{_whole_model(classes)}; give a file that holds the state_dict of a model"
        )
    run = loaded.get("name", "") if isinstance(loaded, Mapping) else ""
    return CheckpointFile(file, entries, run if isinstance(run, str) else "", classes)


def choose_entry(found: list[tuple[str, Any]], wanted: str | None, file: Path, say: Callable[[str], None]) -> Any:
    """One of several sets of weights of a file.

    Args:
        found: what a user may call each, and the thing itself; not empty.
        wanted: what the user called for; None for the trained weights, before any average of them.
        file: as messages name it.
        say: prints a line.

    Raises:
        CheckpointError: it has no such weights.
    """
    names = [name or "the file itself" for name, _ in found]
    if wanted is not None:
        chosen = next((thing for name, thing in found if wanted == name), None)
        if chosen is None:
            raise CheckpointError(
                f"{file} has no weights '{wanted}'{nearest(wanted, names)}; it has {', '.join(names)}"
            )
        return chosen
    name, chosen = next(((n, thing) for n, thing in found if not _AVERAGE.fullmatch(n)), found[0])
    if len(found) > 1:
        others = ", ".join(other for other, (_, thing) in zip(names, found, strict=True) if thing is not chosen)
        say(f"{file.name}: the weights under {name or 'no name'} are taken; it also has {others} (--weights NAME)")
    return chosen


def in_float32(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Tensors with numbers of half or double precision in float32, and what they were; empty where all were that."""
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} - {torch.float32}
    made = {
        name: tensor.detach().to(torch.float32) if tensor.is_floating_point() else tensor.detach()
        for name, tensor in tensors.items()
    }
    return made, ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))


def _safetensors(file: Path) -> tuple[Any, tuple[str, ...]]:
    try:
        return load_file(file), ()
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {_one_line(error)}; get it again") from error


def _torch(file: Path) -> tuple[Any, tuple[str, ...]]:
    """What torch reads of a file, and the classes that it met."""
    stand_ins: dict[str, Any] = {}
    mapped = zipfile.is_zipfile(file)  # the older format cannot be
    while True:
        allowed: list[Any] = [(stand_in, name) for name, stand_in in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(allowed):
                loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
            return loaded, tuple(stand_ins)
        except pickle.UnpicklingError as error:
            unknown = _UNKNOWN_CLASS.search(str(error))
            name = "" if unknown is None else unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
            if not name or name in stand_ins:
                raise CheckpointError(
                    f"{file} is no checkpoint of weights, or asks to run code: {_reason(error)}; give a file that "
                    "holds the state_dict of a model"
                ) from error
            stand_ins[name] = _Inert if name.startswith("numpy.") else _InertMapping
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            if "TorchScript" in str(error):
                raise CheckpointError(
                    f"{file} is a TorchScript archive, as OpenAI ships CLIP, and is not opened; name the same weights "
                    "by open_clip, such as open_clip:ViT-B-32-quickgelu:openai"
                ) from error
            raise CheckpointError(f"{file} cannot be read as a checkpoint: {_reason(error)}; get it again") from error


def _entries(loaded: Any, path: str = "", depth: int = 0) -> Iterator[Entry]:
    """All dictionaries with tensors, the outer before the inner."""
    if not isinstance(loaded, Mapping) or depth > _DEEPEST:
        return
    tensors = {_unwrapped(key): value for key, value in loaded.items() if _is_named_tensor(key, value)}
    yield Entry(path, tensors)
    for key, value in loaded.items():
        if isinstance(key, str) and not _OF_TRAINING.fullmatch(key):
            yield from _entries(value, f"{path}.{key}" if path else key, depth + 1)


def _is_named_tensor(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _whole_model(classes: tuple[str, ...]) -> str:
    return f" (it holds objects of {', '.join(classes[:3])}, which are not made)" if classes else ""


def _reason(error: Exception) -> str:
    """What torch says, without its advice to switch the protection off."""
    text = _one_line(error)
    found = re.search(r"WeightsUnpickler error: (.*)", text)
    text = found[1] if found else text
    return re.split(r"\. |, please|\bPlease\b", text)[0][:160].strip()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
