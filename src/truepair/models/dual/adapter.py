"""LoRA adapters of a model as `peft` writes and reads them: small matrices beside weights that rest."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from truepair.errors import CheckpointError, ConfigError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

# What peft calls the model below its own wrapper; transformers and peft expect it before all names of an adapter file.
_PREFIX = "base_model.model."


def require_peft() -> Any:
    """The module `peft`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError("LoRA needs peft; run pip install 'truepair[peft]'") from error
    return peft


def is_adapter(name_or_folder: str | Path) -> bool:
    """Whether a folder holds an adapter instead of a whole model."""
    return Path(name_or_folder, CONFIG_FILE).is_file()


def base_of(folder: str | Path) -> str:
    """The folder or hub name of the model that an adapter stands upon.

    Raises:
        CheckpointError: the adapter does not say.
    """
    try:
        base = json.loads(Path(folder, CONFIG_FILE).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{folder} does not say which model it adapts; set base_model_name_or_path in {CONFIG_FILE}"
        )
    return base


def has_adapter(model: nn.Module) -> bool:
    """Whether a model has an adapter in its layers."""
    return bool(getattr(model, "peft_config", None))


def insert_adapter(model: nn.Module, config: Any) -> None:
    """Put a fresh adapter into the layers of a model, in place; nothing else is trained then.

    Its first matrices are drawn from the global generator, the second are zero: at first, nothing changes.

    Args:
        model: Whole.
        config: A ``peft.LoraConfig``.
    """
    require_peft().inject_adapter_in_model(config, model)


def insert_like(model: nn.Module, other: nn.Module) -> None:
    """Put an adapter into a model, in place, of the shape of that of another one, if that has one."""
    if has_adapter(other):
        insert_adapter(model, copy.deepcopy(other.peft_config["default"]))  # type: ignore[index]


def save_adapter(model: nn.Module, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write the adapter of a model into a folder, as ``PeftModel.save_pretrained`` does.

    Args:
        model: With an adapter.
        folder: Where.
        weights: Of the model, instead of its own.
    """
    state = require_peft().get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    Path(folder).mkdir(parents=True, exist_ok=True)
    tensors = {_PREFIX + name: value.contiguous() for name, value in state.items()}
    save_file(tensors, Path(folder, WEIGHTS_FILE), {"format": "pt"})
    config: Any = copy.copy(model.peft_config["default"])  # type: ignore[index]
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set, whose order differs from process to process
    config.save_pretrained(folder)


def load_adapter(model: nn.Module, folder: str | Path) -> None:
    """Put the adapter of a folder into the layers of a whole model, in place, to be trained further.

    Raises:
        CheckpointError: it is damaged, or of another model.
    """
    with _errors_of(folder):
        config = require_peft().PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        insert_adapter(model, config)
        _fill(model, folder, "")


def merged(model: nn.Module, folder: str | Path) -> Any:
    """A whole model with the adapter of a folder added to its weights, in place: of the same class as before.

    Raises:
        CheckpointError: it is damaged, or of another model.
    """
    peft = require_peft()
    with _errors_of(folder):
        adapted = peft.PeftModel(model, peft.PeftConfig.from_pretrained(str(folder)))
        _fill(adapted, folder, _PREFIX)
        return adapted.merge_and_unload()


def _fill(model: nn.Module, folder: str | Path, prefix: str) -> None:
    """Read the matrices of an adapter.

    Args:
        model: With an adapter of that shape.
        folder: Where the adapter is.
        prefix: What names of the model have before them, compared with those of the module that is adapted.
    """
    peft = require_peft()
    saved = load_file(Path(folder, WEIGHTS_FILE))
    saved = {prefix + name.removeprefix(_PREFIX): value for name, value in saved.items()}
    own = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    for name in sorted(set(own) ^ set(saved)):
        raise ValueError(f"it was made for another model, as {name} shows")
    peft.set_peft_model_state_dict(model, saved)


@contextmanager
def _errors_of(folder: str | Path) -> Iterator[None]:
    """What goes wrong with an adapter, in one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"no adapter could be loaded from {folder}: {reason}; give another") from error
