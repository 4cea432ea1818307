"""Where a model of open_clip is: an architecture with weights, a folder, or a name on the hub."""

import json
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from truepair.errors import CheckpointError, ConfigError, nearest

CONFIG_FILE = "open_clip_config.json"

_PREFIX = "open_clip:"

_SCHEMAS = ("hf-hub:", "local-dir:")

_RANDOM = "random"

_REFUSALS = (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError, SafetensorError)


@dataclass(frozen=True)
class OpenClipSource:
    """Where a model is.

    Attributes:
        name: as open_clip knows it: an architecture, ``hf-hub:`` or ``local-dir:``.
        weights: tag or file of the weights of an architecture, "random" for none.
        given: what the user typed.
    """

    name: str
    weights: str | None
    given: str

    @property
    def origin(self) -> str:
        """What opens the same weights from any folder; empty for random ones."""
        if self.weights == _RANDOM:
            return ""
        if self.given.startswith(_PREFIX):
            name, _, weights = self.given.removeprefix(_PREFIX).partition(":")
            architecture = str(Path(name).resolve()) if name.endswith(".json") else name
            return f"{_PREFIX}{architecture}:{Path(weights).resolve() if Path(weights).is_file() else weights}"
        folder = Path(self.given.removeprefix("local-dir:"))
        return str(folder.resolve()) if folder.is_dir() else self.given

    def config(self) -> dict[str, Any]:
        """The ``model_cfg``.

        Raises:
            CheckpointError: it cannot be read.
            ConfigError: it would run code of the checkpoint.
        """
        found: dict[str, Any] = attempt(self.given, library().get_model_config, self.name)
        if not {"embed_dim", "text_cfg", "vision_cfg"} <= set(found):
            raise CheckpointError(f"the {CONFIG_FILE} of {self.given} describes no model; give another")
        if found["text_cfg"].get("tokenizer_kwargs", {}).get("trust_remote_code"):
            raise ConfigError(f"{self.given} wants to run code that comes with its tokenizer; give another model")
        return found

    def load(self) -> nn.Module:
        """The model in evaluation mode, in float32, with all of its weights.

        Raises:
            CheckpointError: it is missing or damaged.
            ConfigError: it would run code of the checkpoint.
        """
        self.config()
        trained = self.weights != _RANDOM
        model: nn.Module = attempt(
            self.given,
            library().create_model,
            self.name,
            pretrained=self.weights if trained else None,
            require_pretrained=trained,
            pretrained_text=False,
        )
        return model.eval()


def is_open_clip(name_or_folder: str) -> bool:
    """Whether a name or folder is one of open_clip's; a folder that transformers reads too is that library's."""
    if name_or_folder.startswith((_PREFIX, *_SCHEMAS)):
        return True
    folder = Path(name_or_folder)
    return (folder / CONFIG_FILE).is_file() and not (folder / "config.json").is_file()


def source_of(given: str) -> OpenClipSource:
    """Take a name apart.

    Raises:
        ConfigError: open_clip does not know it, or is not installed.
    """
    if not given.startswith(_PREFIX):
        return OpenClipSource(given if given.startswith(_SCHEMAS) else f"local-dir:{given}", None, given)
    known = library()
    name, _, weights = given.removeprefix(_PREFIX).partition(":")
    if name.endswith(".json"):
        name = _added(Path(name))
    if known.get_model_config(name) is None:
        raise ConfigError(f"open_clip has no model {name}{nearest(name, known.list_models())}")
    tags = known.list_pretrained_tags_by_model(name)
    if Path(weights).is_file():
        warnings.warn(
            f"{weights} does not say how images are normalised and resized; open_clip's defaults are taken, those of "
            f"CLIP (a folder with {CONFIG_FILE} says it)",
            stacklevel=2,
        )
    if weights == _RANDOM or Path(weights).is_file():
        return OpenClipSource(name, weights, given)
    trained = known.get_pretrained_cfg(name, weights)
    if not trained:
        missing = f"{weights} is neither a file nor weights" if weights else "no weights are named"
        raise ConfigError(
            f"{given}: {missing}; append a checkpoint file, '{_RANDOM}' to train from scratch, or one of "
            f"{', '.join(tags) or 'no known tags'}"
        )
    if trained.get("quick_gelu", False) != known.get_model_config(name).get("quick_gelu", False):
        other = f"{name}-quickgelu" if trained.get("quick_gelu") else name.removesuffix("-quickgelu")
        raise ConfigError(f"{weights} was trained with another activation; give {_PREFIX}{other}:{weights}")
    return OpenClipSource(name, weights, given)


def _added(file: Path) -> str:
    """Tell open_clip of an architecture; its name.

    Raises:
        ConfigError: the file is none, or has the name of another one.
    """
    known = library()
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is no architecture of open_clip ({error}); give its JSON file") from error
    if known.get_model_config(file.stem) not in (None, config):
        raise ConfigError(f"open_clip has another model {file.stem}; rename {file}")
    known.add_model_config(file)
    return file.stem


def attempt(given: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call open_clip, with errors of one line.

    Raises:
        CheckpointError: it refuses.
    """
    try:
        return function(*arguments, **options)
    except _REFUSALS as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"no open_clip model could be loaded from {given}: {reason}; give another") from error


def library() -> Any:
    """The library, which takes seconds to import, and which not everyone has.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import open_clip
    except ImportError:
        raise ConfigError("models of open_clip need its package: pip install 'truepair[open_clip]'") from None
    return open_clip
