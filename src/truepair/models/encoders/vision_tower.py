"""Vision towers of transformers as image encoders."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PretrainedConfig, PreTrainedModel

from truepair.errors import ConfigError
from truepair.models.encoders.base import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder, require_known_fields
from truepair.models.encoders.recomputing import recompute_layers, recompute_mlps

# Fields of this package, beside those of the transformers config.
_PIXEL_FIELDS = ("pixel_mean", "pixel_std")

# Fields that describe a saved file or a classifier, not an architecture.
_NOT_ARCHITECTURE = {
    "model_type",
    "transformers_version",
    "architectures",
    "dtype",
    "_name_or_path",
    "id2label",
    "label2id",
}

# Towers that AutoModel does not know by themselves.
_TOWERS = {"blip_vision_model": "BlipVisionModel"}

# These normalise only their pooled state, by this LayerNorm; the others normalise all states.
_LATE_NORM = {
    "altclip_vision_model": "post_layernorm",
    "chinese_clip_vision_model": "post_layernorm",
    "clip_vision_model": "post_layernorm",
    "convnext": "layernorm",
    "convnextv2": "layernorm",
    "metaclip_2_vision_model": "post_layernorm",
    "mlcd_vision_model": "post_layernorm",
}

_COMMON_TYPES = (
    "beit",
    "blip_vision_model",
    "clip_vision_model",
    "convnext",
    "deit",
    "dinov2",
    "resnet",
    "siglip_vision_model",
    "swin",
    "vit",
)


class VisionTower(ImageEncoder):
    """A vision model of transformers without its pooling layer, so that every weight takes part in training.

    States are the last hidden states, normalised: CLIP and ConvNeXt give them out before the final LayerNorm, so it is
    applied here. Feature maps [B, C, h, w] (ResNet, ConvNeXt) become h * w states. Images of another size than the
    model was made for get interpolated position embeddings where transformers can do that.

    Args:
        model: the vision model.
        pixel_mean: mean of the normalised images' channels before normalisation.
        pixel_std: standard deviation likewise.

    Raises:
        ConfigError: the model does not state the width of its states.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pixel_mean: tuple[float, float, float] = IMAGENET_MEAN,
        pixel_std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.model = _without_pooling(model)
        recompute_mlps(self.model)
        recompute_layers(self.model)
        self.width = _states_width(model.config)
        self.image_size = _single(getattr(model.config, "image_size", None)) or 224
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std
        self.config = {**_architecture(model.config), "pixel_mean": list(pixel_mean), "pixel_std": list(pixel_std)}
        self._late_norm = _LATE_NORM.get(model.config.model_type)
        self._interpolates = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "VisionTower":
        """Build with random weights from ``model_type``, fields of its transformers config, and pixel statistics.

        Raises:
            ConfigError: not an image encoder, an unknown field, or values that transformers refuses.
        """
        tower = _tower_of(_transformers_config(config))
        statistics = {name: tuple(config[name]) for name in _PIXEL_FIELDS if name in config}
        return cls(tower, **statistics)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, H, W] to states [B, N, W]."""
        options = {}
        if self._interpolates and tuple(pixel_values.shape[2:]) != (self.image_size, self.image_size):
            options["interpolate_pos_encoding"] = True
        states: Tensor = self.model(pixel_values=pixel_values, **options).last_hidden_state
        if states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)  # [B, C, h, w] -> [B, h * w, C]
        return states if self._late_norm is None else getattr(self.model, self._late_norm)(states)

    def resized(self, image_size: int) -> "VisionTower":
        """The same encoder for images of another size, its position embeddings interpolated once and for all.

        A type that states no image size (ResNet) takes any: it is the same encoder.

        Raises:
            ConfigError: the positions of this type of encoder cannot be interpolated.
        """
        if image_size == self.image_size or getattr(self.model.config, "image_size", None) is None:
            return self
        tower = VisionTower.from_config({**self.config, "image_size": image_size})
        target = tower.state_dict()
        state = {
            name: value if value.shape == target[name].shape else self._resize(name, value, target[name])
            for name, value in self.state_dict().items()
        }
        tower.load_state_dict(state)
        return tower

    def _resize(self, name: str, table: Tensor, target: Tensor) -> Tensor:
        """Bicubic interpolation of positions [..., prefix + side^2, D]; the prefix ([CLS] and the like) stays."""
        patch = _single(getattr(self.model.config, "patch_size", None))
        if "position_embedding" not in name or patch is None:
            raise ConfigError(
                f"'{self.config['model_type']}' takes images of {self.image_size} px only ({name} depends on it)"
            )
        prefix = table.shape[-2] - (self.image_size // patch) ** 2
        side, new_side = self.image_size // patch, math.isqrt(target.shape[-2] - prefix)
        rows = table.reshape(table.shape[-2:])  # [prefix + side^2, D]
        grid = rows[prefix:].T.reshape(1, -1, side, side)
        grid = F.interpolate(grid.float(), (new_side, new_side), mode="bicubic", align_corners=False).to(table.dtype)
        return torch.cat([rows[:prefix], grid.flatten(2)[0].T]).reshape(target.shape)


def inner_tower(model: PreTrainedModel) -> PreTrainedModel:
    """The vision tower of a model with several towers (CLIP, SigLIP, BLIP), or the model itself.

    Raises:
        ConfigError: the model does not read images.
    """
    tower: PreTrainedModel = getattr(model, "vision_model", model)
    if tower.main_input_name != "pixel_values":
        raise ConfigError(f"'{model.config.model_type}' is not an image encoder; try one of {', '.join(_COMMON_TYPES)}")
    return tower


def known_types() -> list[str]:
    """Every ``model_type`` of transformers, the usual image encoders first; not all of the others read images."""
    return [*_COMMON_TYPES, *(kind for kind in CONFIG_MAPPING if kind not in _COMMON_TYPES)]


def _transformers_config(config: Mapping[str, Any]) -> PretrainedConfig:
    kind = config["model_type"]
    config_class = CONFIG_MAPPING[kind]
    fields = {name: value for name, value in config.items() if name not in ("model_type", *_PIXEL_FIELDS)}
    known = {*config_class().to_dict(), *config_class.attribute_map, *_PIXEL_FIELDS}
    require_known_fields(fields, known, f"image encoder '{kind}'")
    try:
        return config_class(**fields)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ConfigError(f"image encoder '{kind}': {' '.join(str(error).split())}") from None


def _tower_of(config: PretrainedConfig) -> PreTrainedModel:
    if config.model_type in _TOWERS:
        return inner_tower(getattr(transformers, _TOWERS[config.model_type])(config))
    if type(config) not in MODEL_MAPPING:
        raise ConfigError(f"'{config.model_type}' has no model of its own; try one of {', '.join(_COMMON_TYPES)}")
    model_class = MODEL_MAPPING[type(config)]
    if model_class.main_input_name != "pixel_values":
        raise ConfigError(f"'{config.model_type}' is not an image encoder; try one of {', '.join(_COMMON_TYPES)}")
    return inner_tower(model_class(config))


def _without_pooling(model: PreTrainedModel) -> PreTrainedModel:
    """Take away what would get no gradient: layers after the states, the mask token of self-supervised training."""
    if isinstance(getattr(model, "pooler", None), nn.Module) and any(True for _ in model.pooler.parameters()):
        model.pooler = None
    if getattr(model, "use_head", False):
        model.use_head = False
        del model.head
    mask_token = getattr(getattr(model, "embeddings", None), "mask_token", None)
    if isinstance(mask_token, nn.Parameter):
        mask_token.requires_grad_(False)
    return model


def _states_width(config: PretrainedConfig) -> int:
    width = getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [None])[-1]
    if width is None:
        raise ConfigError(f"'{config.model_type}' does not state the width of its states; use another image encoder")
    return int(width)


def _single(size: Any) -> int | None:
    return int(size[0]) if isinstance(size, list | tuple) else size


def _architecture(config: PretrainedConfig) -> dict[str, Any]:
    """The fields that differ from the type's defaults, as plain JSON types."""
    fields, defaults = config.to_dict(), type(config)().to_dict()
    changed = {
        name: value
        for name, value in fields.items()
        if name in defaults and value != defaults[name] and name not in _NOT_ARCHITECTURE
    }
    return {"model_type": config.model_type, **changed}
