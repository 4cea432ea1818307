"""Trained models from a folder or from the hub."""

from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from transformers import PreTrainedModel

from truepair.errors import CheckpointError
from truepair.models.albef import AlbefModel

Model = TypeVar("Model", bound=PreTrainedModel)


def load_albef(name_or_folder: str | Path) -> AlbefModel:
    """Load a pre-trained model.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    return load_model(AlbefModel, name_or_folder)


def load_model(kind: type[Model], name_or_folder: str | Path) -> Model:
    """Load a trained model of some kind, such as a `VqaModel`.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another kind.
    """
    try:
        model, loading = kind.from_pretrained(name_or_folder, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"no model could be loaded from {name_or_folder}: {reason}") from error
    if loading["missing_keys"]:
        first = sorted(loading["missing_keys"])[0]
        raise CheckpointError(f"{name_or_folder} lacks weights of the model ({first}, ...); give a whole model")
    trained: Model = model
    return trained
