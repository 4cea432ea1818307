"""Any model by its folder, name or checkpoint file: ours, or one of open_clip or transformers."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from truepair.data.preprocessing import OwnPreprocessing, Preprocessing
from truepair.errors import CheckpointError, ConfigError
from truepair.models.checkpoints.blip2_language import is_blip2_language
from truepair.models.checkpoints.convert import open_checkpoint
from truepair.models.checkpoints.load import load_own, stated_settings
from truepair.models.checkpoints.tensors import SUFFIXES
from truepair.models.dual.adapter import is_adapter
from truepair.models.dual.base import DualEncoder
from truepair.models.dual.hub import open_hub
from truepair.models.dual.lora import open_adapter
from truepair.models.dual.open_clip import open_open_clip
from truepair.models.dual.open_clip_source import is_open_clip
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.blip import is_blip, open_blip_folder
from truepair.models.fusion.blip2 import is_blip2, open_blip2_folder
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


def open_model(name_or_folder: str | Path, say: Callable[[str], None] | None = None) -> OpenedModel:
    """Open a model with its preprocessing.

    Args:
        name_or_folder: a folder, of ours, of open_clip, of transformers or of an adapter, which is merged into its
            base; a run folder, whose ``model`` is meant; a name on the hub; one of open_clip, see `open_open_clip`; or
            a checkpoint file of another program, see `open_checkpoint`.
        say: prints a line, about what a checkpoint file holds; by default lines are warnings.

    Raises:
        CheckpointError: there is none, it is damaged, or nothing here reads its kind.
        ConfigError: it is no dual encoder.
    """
    name = str(model_folder(name_or_folder))
    path = Path(name).expanduser()
    if path.is_file():
        return OpenedModel(*open_checkpoint(path, say or _warn))
    if not path.exists() and path.suffix in SUFFIXES and not is_open_clip(name):
        raise CheckpointError(f"there is no checkpoint file {path}; check the path")
    if not path.exists() and path.parent.is_dir() and path.parent != Path():
        raise CheckpointError(f"no model in {name}: there is no such folder; check the path")  # the hub is not asked
    for recognises, load in _OPENERS:
        if recognises(name):
            return OpenedModel(*load(name))
    if is_blip2_language(stated_settings(name)):
        raise ConfigError(
            f"{name} is a BLIP-2 with a language model, which writes, and compares no pictures with texts; give the "
            "first stage that it was trained from"
        )
    return OpenedModel(*open_hub(name))


def open_own(
    name_or_folder: str | Path, say: Callable[[str], None] | None = None
) -> tuple[AlbefModel, OwnPreprocessing]:
    """Open a model of ours, or a checkpoint file of ALBEF, GRIT-VLP or MAFA, which becomes one.

    Args:
        name_or_folder: a folder, or a file.
        say: as for `open_model`.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another kind.
    """
    if not Path(name_or_folder).expanduser().is_file():
        return load_own(name_or_folder)
    opened = open_model(name_or_folder, say)
    if not isinstance(opened.model, AlbefModel) or not isinstance(opened.preprocessing, OwnPreprocessing):
        raise CheckpointError(f"{name_or_folder} is a {opened.model.kind}; give an ALBEF, or a folder of truepair")
    return opened.model, opened.preprocessing


def blip2_stage(name_or_folder: str | Path) -> int:
    """1 of a BLIP-2 of the first stage, 2 of one with a language model, 0 of all else.

    Raises:
        CheckpointError: there is no such model.
    """
    name = str(model_folder(name_or_folder))
    if Path(name).expanduser().is_file():
        return 0
    settings = stated_settings(name)
    return 2 if is_blip2_language(settings) else int(is_blip2(settings))


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=3)


def model_folder(name_or_folder: str | Path) -> Path | str:
    """The ``model`` folder of a run folder; whatever else is given, as it is."""
    inner = Path(name_or_folder, "model")
    return inner if inner.is_dir() and not Path(name_or_folder, "config.json").exists() else name_or_folder


def _is_own(name: str) -> bool:
    """Whether the config is one of ours.

    Raises:
        CheckpointError: there is no config.
    """
    return stated_settings(name).get("model_type") == AlbefConfig.model_type


def _is_blip(name: str) -> bool:
    """Whether the config is that of a BLIP for retrieval.

    Raises:
        CheckpointError: there is no config.
    """
    return is_blip(stated_settings(name))


def _is_blip2(name: str) -> bool:
    """Whether the config is that of a BLIP-2 of the first stage.

    Raises:
        CheckpointError: there is no config.
    """
    return is_blip2(stated_settings(name))


_OPENERS: list[tuple[Callable[[str], bool], Callable[[str], tuple[DualEncoder, Preprocessing]]]] = [
    (is_adapter, open_adapter),
    (is_open_clip, open_open_clip),
    (_is_own, load_own),
    (_is_blip, open_blip_folder),
    (_is_blip2, open_blip2_folder),
]
"""What recognises a kind of model, and what opens it; the last kind, any model of transformers, is not among them."""
