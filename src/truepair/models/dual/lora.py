"""LoRA (Hu et al. 2022) for a dual encoder: small matrices are trained beside its layers, all else rests."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from truepair.data.preprocessing import Preprocessing
from truepair.errors import CheckpointError, ConfigError, nearest
from truepair.files import writing_folder
from truepair.models.dual.adapter import base_of, has_adapter, insert_adapter, is_adapter, merged, require_peft
from truepair.models.dual.base import DualEncoder
from truepair.models.dual.blocks import TowerBlocks
from truepair.models.dual.hub import HubDualEncoder, open_hub_preprocessing
from truepair.models.dual.open_clip import open_open_clip
from truepair.models.dual.open_clip_source import is_open_clip
from truepair.settings import PartShare, Positive, check_settings


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """How a dual encoder is adapted; the temperature rests, since it is no layer that peft could save.

    Attributes:
        rank: width of the two matrices beside each layer.
        alpha: what they add is multiplied by ``alpha / rank``.
        dropout: dropout before them, in training.
        targets: endings of the names of the linear layers that get them, such as q_proj and v_proj; all linear layers
            in the blocks of the towers, those of attention and of the MLP, when absent (of open_clip's own
            transformers, those of the MLP).
        projections: train the projections into the common space as well, whole; they are saved with the adapter.
    """

    rank: Positive = 16
    alpha: Positive = 32
    dropout: PartShare = 0.0
    targets: list[str] | None = None
    projections: bool = False

    def __post_init__(self) -> None:
        check_settings(self, "model.lora")


def add_lora(model: DualEncoder, settings: LoraSettings) -> None:
    """Put an adapter into the blocks of a dual encoder that are not frozen, in place; nothing else is trained then.

    Its matrices are drawn from the global generator. `save_pretrained` writes the adapter alone from now on, as peft
    does: ``PeftModel.from_pretrained(base, folder)`` and the ``from_pretrained`` of the base's class read it.

    Raises:
        ConfigError: peft is missing, the model is no such one, or there are no such layers.
    """
    peft, inner, base = require_peft(), model.inner, model.origin
    if inner is None:
        raise ConfigError(f"model.lora is for models of other libraries, not for {type(model).__name__}; leave it out")
    if has_adapter(inner) or not base:
        raise ConfigError(
            "model.lora adapts a whole model that has a folder or a hub name; write an adapter and its base as one "
            "with truepair.models.merge_adapter first, or save the model, and set model.checkpoint to that folder"
        )
    projections = [name for name, _ in inner.named_children() if name in ("visual_projection", "text_projection")]
    if settings.projections and not projections:
        raise ConfigError(
            f"model.lora.projections: {type(inner).__name__} has no projections that are layers; leave it out"
        )
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets(model, inner, settings.targets),
        modules_to_save=projections if settings.projections else None,
        base_model_name_or_path=base,
        auto_mapping={"base_model_class": type(inner).__name__, "parent_library": type(inner).__module__},
    )
    try:
        insert_adapter(inner, config)
    except ValueError as error:  # a kind of layer knows no dropout, say
        raise ConfigError(f"model.lora: {' '.join(str(error).split())}") from error


def open_adapter(folder: str | Path) -> tuple[DualEncoder, Preprocessing]:
    """The dual encoder that an adapter makes of its base: an ordinary model, the adapter merged into its weights.

    Its preprocessing is what lies beside the adapter; of open_clip, that of the base.

    Raises:
        CheckpointError: the base is out of reach, or the adapter is damaged.
        ConfigError: peft or open_clip is missing, or the base is no dual encoder.
    """
    require_peft()
    base = base_of(folder)
    try:
        opened = open_open_clip(base) if is_open_clip(base) else (HubDualEncoder.from_pretrained(base), None)
    except CheckpointError as error:
        raise CheckpointError(
            f"the adapter in {folder} needs its base {base}, which could not be opened ({error}); put it there, or set "
            "base_model_name_or_path in adapter_config.json"
        ) from error
    model, preprocessing = opened
    model.model = merged(model.model, folder)
    model.origin = ""  # nothing on disk holds these weights
    model.eval()
    if isinstance(model, HubDualEncoder):
        return model, open_hub_preprocessing(model, str(folder))
    assert preprocessing is not None, "a model of open_clip is opened with its own"
    return model, preprocessing


def merge_adapter(folder: str | Path, output: str | Path) -> None:
    """Write the model that an adapter makes of its base as an ordinary folder of the base's class.

    Args:
        folder: An adapter, such as the ``model`` folder of a run with ``model.lora``.
        output: A folder that does not exist yet, or is replaced.

    Raises:
        CheckpointError: the folder holds no adapter, the base is out of reach, or the disk is full.
    """
    if not is_adapter(folder):
        raise CheckpointError(f"{folder} holds no adapter; there is nothing to merge")
    model, preprocessing = open_adapter(folder)
    with writing_folder(Path(output), error=CheckpointError, advice="free some space and merge again") as aside:
        model.save_pretrained(aside)
        preprocessing.save(aside)


def _targets(model: DualEncoder, inner: nn.Module, endings: list[str] | None) -> list[str]:
    """Names of the linear layers of the blocks that get an adapter.

    Raises:
        ConfigError: there are none.
    """
    names = {module: name for name, module in inner.named_modules()}
    blocks = [*TowerBlocks(model.image_tower).blocks, *TowerBlocks(model.text_tower).blocks]
    trained = [block for block in blocks if any(weight.requires_grad for weight in block.parameters())]
    layers = [names[layer] for block in trained for layer in _linear_layers(block)]
    if not layers:
        raise ConfigError("model.lora: the towers have no block that is not frozen; freeze less, or leave it out")
    if endings is None:
        return layers
    for ending in endings:
        if not any(f".{name}".endswith(f".{ending}") for name in layers):
            last = sorted({name.rpartition(".")[2] for name in layers})
            raise ConfigError(
                f"model.lora.targets: no linear layer of the blocks is called '{ending}'{nearest(ending, last)}; "
                f"there are {', '.join(last)}"
            )
    return [name for name in layers if any(f".{name}".endswith(f".{ending}") for ending in endings)]


def _linear_layers(module: nn.Module) -> Iterator[nn.Linear]:
    """The linear layers of a module, but for those within torch's own attention, which open_clip uses.

    Peft would adapt that by adding to its weights before each call and subtracting after it, which rounds them anew
    each time: what rests would move, and the adapter would not be the whole difference to the base.
    """
    if isinstance(module, nn.Linear):
        yield module
    elif not isinstance(module, nn.MultiheadAttention):
        for child in module.children():
            yield from _linear_layers(child)
