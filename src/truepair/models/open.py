"""Any model by its folder or name: ours, or one of open_clip or transformers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from truepair.data.preprocessing import Preprocessing
from truepair.errors import CheckpointError
from truepair.models.checkpoints.load import load_own, load_part
from truepair.models.dual.adapter import is_adapter
from truepair.models.dual.base import DualEncoder
from truepair.models.dual.hub import open_hub
from truepair.models.dual.lora import open_adapter
from truepair.models.dual.open_clip import open_open_clip
from truepair.models.dual.open_clip_source import is_open_clip
from truepair.models.fusion.config import AlbefConfig


@dataclass(frozen=True)
class OpenedModel:
    """A model that is ready to train or to use.

    Attributes:
        model: compares images and texts.
        preprocessing: how captions and images reach it.
    """

    model: DualEncoder
    preprocessing: Preprocessing


def open_model(name_or_folder: str | Path) -> OpenedModel:
    """Open a model with its preprocessing.

    Args:
        name_or_folder: a folder, of ours, of open_clip, of transformers or of an adapter, which is merged into its
            base; a run folder, whose ``model`` is meant; a name on the hub; or one of open_clip, see `open_open_clip`.

    Raises:
        CheckpointError: there is none, it is damaged, or nothing here reads its kind.
        ConfigError: it is no dual encoder.
    """
    name = str(model_folder(name_or_folder))
    if not Path(name).exists() and Path(name).parent.is_dir() and Path(name).parent != Path():
        raise CheckpointError(f"no model in {name}: there is no such folder; check the path")  # the hub is not asked
    for recognises, load in _OPENERS:
        if recognises(name):
            return OpenedModel(*load(name))
    return OpenedModel(*open_hub(name))


def model_folder(name_or_folder: str | Path) -> Path | str:
    """The ``model`` folder of a run folder; whatever else is given, as it is."""
    inner = Path(name_or_folder, "model")
    return inner if inner.is_dir() and not Path(name_or_folder, "config.json").exists() else name_or_folder


def _is_own(name: str) -> bool:
    """Whether the config is one of ours.

    Raises:
        CheckpointError: there is no config.
    """
    settings = load_part(_Settings, name)
    return isinstance(settings, dict) and settings.get("model_type") == AlbefConfig.model_type


class _Settings:
    """The config file of a checkpoint, read like a model."""

    @staticmethod
    def from_pretrained(name: str, **options: str) -> dict[str, Any]:
        """Read it; without `PretrainedConfig`, which warns of kinds that it does not know."""
        file = cached_file(name, "config.json", **options)
        settings: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
        return settings


_OPENERS: list[tuple[Callable[[str], bool], Callable[[str], tuple[DualEncoder, Preprocessing]]]] = [
    (is_adapter, open_adapter),
    (is_open_clip, open_open_clip),
    (_is_own, load_own),
]
"""What recognises a kind of model, and what opens it; the last kind, any model of transformers, is not among them."""
