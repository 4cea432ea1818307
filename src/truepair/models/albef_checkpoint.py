"""A trained ALBEF from a folder or from the hub."""

from pathlib import Path

from safetensors import SafetensorError

from truepair.errors import CheckpointError
from truepair.models.albef import AlbefModel


def load_albef(name_or_folder: str | Path) -> AlbefModel:
    """Load a trained model.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    try:
        model, loading = AlbefModel.from_pretrained(name_or_folder, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"no model could be loaded from {name_or_folder}: {reason}") from error
    if loading["missing_keys"]:
        first = sorted(loading["missing_keys"])[0]
        raise CheckpointError(f"{name_or_folder} lacks weights of the model ({first}, ...); give a whole model")
    albef: AlbefModel = model
    return albef
