"""Trained models from a folder or from the hub, ours and those of transformers."""

import json
from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.transforms import ImageTransform
from truepair.errors import CheckpointError
from truepair.loading import LOADING_ERRORS, why_not_loaded
from truepair.models.encoders.fingerprint import combined_key
from truepair.models.fusion.albef import AlbefModel

Model = TypeVar("Model", bound=PreTrainedModel)


def load_albef(name_or_folder: str | Path) -> AlbefModel:
    """Load a pre-trained model.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    return load_model(AlbefModel, name_or_folder)


def load_own(folder: str | Path) -> tuple[AlbefModel, OwnPreprocessing]:
    """Load a pre-trained model of ours, and how captions and images reach it.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    _require_kind(AlbefModel, folder)
    preprocessing = OwnPreprocessing.load(Path(folder))
    model = load_albef(folder)
    encoder = model.image_encoder
    return model, replace(preprocessing, statistics=(encoder.pixel_mean, encoder.pixel_std))


def load_model(kind: type[Model], name_or_folder: str | Path) -> Model:
    """Load a trained model of some kind, such as a `VqaModel`.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another kind.
    """
    _require_kind(kind, name_or_folder)
    try:
        model, loading = kind.from_pretrained(name_or_folder, output_loading_info=True, trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise CheckpointError(f"no model could be loaded from {name_or_folder}: {why_not_loaded(error)}") from error
    if loading["missing_keys"]:
        first = sorted(loading["missing_keys"])[0]
        raise CheckpointError(f"{name_or_folder} lacks weights of the model ({first}, ...); give a whole model")
    trained: Model = model
    return trained


def _require_kind(kind: type[PreTrainedModel], name_or_folder: str | Path) -> None:
    """Refuse a checkpoint of another kind, from which transformers would take a config and leave weights at random.

    Raises:
        CheckpointError: it is one, or there is none.
    """
    expected, stated = kind.config_class.model_type, stated_settings(str(name_or_folder)).get("model_type")
    if stated != expected:
        task = expected.removeprefix("truepair-")
        run = "truepair train" if kind is AlbefModel else f"truepair train {task}"
        is_one = "says of no kind which it is" if stated is None else f"is a {stated}"
        raise CheckpointError(
            f"{name_or_folder} {is_one}, and what is needed here is a model that '{run}' wrote; give the 'model' "
            "folder of such a run"
        )


def stated_settings(name_or_folder: str) -> dict[str, Any]:
    """The fields of a checkpoint's config.

    Raises:
        CheckpointError: there is none.
    """
    settings = load_part(_Settings, name_or_folder)
    return settings if isinstance(settings, dict) else {}


class _Settings:
    """The config file of a checkpoint, read like a model."""

    @staticmethod
    def from_pretrained(name: str, *, trust_remote_code: bool, **revision: str) -> dict[str, Any]:
        """Read it; without `PretrainedConfig`, which warns of kinds that it does not know, and runs what it names."""
        file = cached_file(name, "config.json", **revision)
        if file is None:
            raise FileNotFoundError("it has no config.json")
        settings: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
        return settings


def load_part(kind: Any, name_or_folder: str, *, what: str = "model", **options: Any) -> Any:
    """``kind.from_pretrained``, with errors of one line; code beside the weights is never run.

    Args:
        kind: a class of transformers, such as `AutoTokenizer`.
        name_or_folder: a folder, or a name on the hub; ``name@revision`` is a branch, a tag or a commit there.
        what: the part, as errors name it.
        **options: of ``from_pretrained``.

    Raises:
        CheckpointError: there is no such thing, it is damaged, or it needs code of its own.
    """
    name, revision = _revision(name_or_folder)
    if Path(name).is_file():
        raise CheckpointError(
            f"{name} is a file, and a folder of a model is needed here; make one: truepair convert {name} FOLDER"
        )
    try:
        return kind.from_pretrained(name, trust_remote_code=False, **revision, **options)
    except LOADING_ERRORS as error:
        reason = why_not_loaded(error)
        if "trust_remote_code" in str(error):
            raise CheckpointError(
                f"{name_or_folder} needs code of its own for its {what}, and such code is never run; give a checkpoint "
                "of a kind that transformers knows"
            ) from error
        if not Path(name).exists() and what == "model":
            raise CheckpointError(f"no model in {name_or_folder}, neither a folder nor a hub name in reach") from error
        advice = "give another" if what == "model" else f"save the {what} that the model was trained with beside it"
        if isinstance(error, ImportError):
            advice = "install that"
        raise CheckpointError(f"no {what} could be loaded from {name_or_folder}: {reason}; {advice}") from error


def load_hub_model(kind: Any, name_or_folder: str, *, may_lack: Set[str] = frozenset(), **options: Any) -> Any:
    """``kind.from_pretrained``, none of its weights left at random.

    Args:
        kind: a class of models.
        name_or_folder: as for :func:`load_part`.
        may_lack: weights whose initial value, which no chance decides, is good enough.
        **options: of ``from_pretrained``.

    Raises:
        CheckpointError: there is no such model, it is damaged, or it is of another kind.
    """
    model, loading = load_part(kind, name_or_folder, output_loading_info=True, **options)
    missing = sorted(set(loading["missing_keys"]) - may_lack)
    if missing:
        raise CheckpointError(
            f"{name_or_folder} lacks weights of {type(model).__name__} ({missing[0]}, ...); give another"
        )
    return model


def _revision(name_or_folder: str) -> tuple[str, dict[str, str]]:
    """A hub name, and the option that states its revision; folders may have an @ in their name."""
    name, at, revision = name_or_folder.rpartition("@")
    return (name, {"revision": revision}) if at and not Path(name_or_folder).exists() else (name_or_folder, {})


def processor_transform(processor: BaseImageProcessor) -> ImageTransform:
    """An image processor as a transform of one image to float32 [3, H, W]."""
    return ImageTransform(lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0].float())


def processor_key(processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase) -> str:
    """Equal keys, equal inputs of a model."""
    return combined_key(images=processor.to_dict(), captions=tokenizer.get_vocab())
