"""LoRA (Hu et al. 2022) in the language model of a BLIP-2: small matrices are trained beside its layers, which rest.

The saved folder holds the language model with the matrices added to its weights, as any reader expects it. What
training goes on from, the matrices and the weights that they are added to, lies in a folder within.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from truepair.errors import CheckpointError, ConfigError, nearest
from truepair.models.dual.adapter import has_adapter, insert_adapter, load_adapter, require_peft, save_adapter

ADAPTER_FOLDER = "language_adapter"

_BASE_FILE = "base.safetensors"

_BASE = ".base_layer."


def add_language_lora(
    language: nn.Module, *, rank: int, alpha: float, dropout: float, targets: list[str] | None = None
) -> None:
    """Put an adapter into a language model, in place; nothing else of it is trained then.

    Args:
        language: Of transformers, whole.
        rank: Width of the two matrices beside each layer.
        alpha: What they add is multiplied by ``alpha / rank``.
        dropout: Dropout before them, in training.
        targets: Endings of the names of the layers that get them; all linear layers but the head when absent.

    Raises:
        ConfigError: peft is missing, or there are no such layers.
    """
    peft = require_peft()
    _require_layers(language, targets)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear" if targets is None else targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in language.modules()),  # GPT-2's layers
    )
    try:
        insert_adapter(language, config)
    except ValueError as error:  # no layer has such a name
        raise ConfigError(f"model.language.lora: {' '.join(str(error).split())}") from error


def _require_layers(language: nn.Module, targets: list[str] | None) -> None:
    """Refuse endings of names that no linear layer has; peft passes by those that are wrong beside a right one.

    Raises:
        ConfigError: there is one.
    """
    names = [name for name, module in language.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    last = sorted({name.rpartition(".")[2] for name in names})
    for ending in [] if targets is None else targets:
        if not any(name == ending or name.endswith(f".{ending}") for name in names):
            raise ConfigError(
                f"model.language.lora.targets: no linear layer of the language model is called '{ending}'"
                f"{nearest(ending, last)}; it has {', '.join(last)}"
            )
    if targets == []:
        raise ConfigError("model.language.lora.targets is empty; leave it out for all linear layers")


def adapted_layers(language: nn.Module) -> dict[str, Any]:
    """The layers of a language model that have an adapter, by name."""
    if not has_adapter(language):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in language.named_modules() if isinstance(module, BaseTunerLayer)}


def train_dropout(language: nn.Module, mode: bool) -> None:
    """Set training mode in the adapter of a language model that rests otherwise."""
    for layer in adapted_layers(language).values():
        layer.lora_dropout.train(mode)


def merge_adapter_into(language: nn.Module) -> None:
    """Add the adapter of a language model to its weights, in place, and leave no trace of it."""
    for name, layer in adapted_layers(language).items():
        layer.merge()
        language.set_submodule(name, layer.get_base_layer())
    del language.peft_config


def save_language_adapter(language: nn.Module, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write an adapter, and the weights of the layers that it is added to, beside a model.

    Args:
        language: With an adapter.
        folder: Of the model.
        state: Weights of the language model.
    """
    inside = folder / ADAPTER_FOLDER
    save_adapter(language, inside, dict(state))
    base = {name.replace(_BASE, "."): tensor.contiguous().cpu() for name, tensor in state.items() if _BASE in name}
    save_file(base, inside / _BASE_FILE)


def restore_language_adapter(language: nn.Module, folder: str | Path) -> None:
    """Take an adapter out of the weights of a language model again, and put it beside them, to be trained further.

    Args:
        language: From a folder that `save_language_adapter` wrote into; changed in place.
        folder: Of the model; nothing happens where it has no adapter.

    Raises:
        CheckpointError: It is damaged, or of another model.
    """
    inside = Path(folder, ADAPTER_FOLDER)
    if not inside.is_dir():
        return
    try:
        base = load_file(inside / _BASE_FILE)
        language.load_state_dict(language.state_dict() | base)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{inside / _BASE_FILE} is of another model, or damaged; give a whole one") from error
    load_adapter(language, inside)
