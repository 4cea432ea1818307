"""Image encoders by name: built, loaded, fed, and resized."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoModel, PreTrainedModel

from truepair.data.transforms import ImageTransform, TransformConfig, build_transform
from truepair.errors import CheckpointError, ConfigError, nearest
from truepair.loading import LOADING_ERRORS, why_not_loaded
from truepair.models.encoders.base import ImageEncoder
from truepair.models.encoders.conv_stem import ConvStem
from truepair.models.encoders.efficientnet import EfficientNetLite0
from truepair.models.encoders.vision_tower import VisionTower, inner_tower, known_types

_OWN: Mapping[str, Callable[[Mapping[str, Any]], ImageEncoder]] = {
    "conv_stem": ConvStem.from_config,
    "efficientnet_lite0": EfficientNetLite0.from_config,
}


def build_image_encoder(config: Mapping[str, Any]) -> ImageEncoder:
    """The image encoder that a config describes.

    Args:
        config: ``model_type``, and fields of that type. "conv_stem" (`ConvStemConfig`) and "efficientnet_lite0"
            (`EfficientNetLite0Config`, with ImageNet weights) are of this package; every other name is that of a
            vision model of transformers ("vit", "deit", "clip_vision_model", "siglip_vision_model", "dinov2", ...)
            with the fields of its config, random weights, and optionally ``pixel_mean`` and ``pixel_std``.

    Raises:
        ConfigError: an unknown type or field (the message names the nearest), or an unusable value.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ConfigError("the image encoder needs a model_type, such as vit, conv_stem or efficientnet_lite0")
    if kind in _OWN:
        return _OWN[kind](config)
    types = known_types()
    if kind not in types:
        raise ConfigError(f"there is no image encoder '{kind}'{nearest(kind, [*_OWN, *types])}")
    return VisionTower.from_config(config)


def load_image_encoder(name_or_folder: str | Path, *, image_size: int | None = None) -> ImageEncoder:
    """An image encoder with the weights of a checkpoint.

    Args:
        name_or_folder: "efficientnet_lite0", a folder written by ``save_pretrained``, or a name on the Hugging Face
            hub. Of a model with several towers (CLIP, SigLIP, BLIP) the vision tower is taken.
        image_size: height and width of the images to come; position embeddings are interpolated once. None: the
            checkpoint's own.

    Raises:
        CheckpointError: there is no such checkpoint, or it lacks weights.
        ConfigError: the model does not read images, or cannot be resized.
    """
    if str(name_or_folder) == "efficientnet_lite0":
        size = {} if image_size is None else {"image_size": image_size}
        return EfficientNetLite0.from_config({"model_type": "efficientnet_lite0", **size})
    try:
        model, info = AutoModel.from_pretrained(name_or_folder, output_loading_info=True, trust_remote_code=False)
    except LOADING_ERRORS as error:
        reason = why_not_loaded(error)
        raise CheckpointError(f"no image encoder could be loaded from '{name_or_folder}': {reason}") from None
    missing = [key for key in sorted(info["missing_keys"]) if not _is_pooling(key)]
    if missing:
        raise CheckpointError(f"'{name_or_folder}' lacks {len(missing)} weights, the first of them {missing[0]}")
    tower = VisionTower(inner_tower(model), **_pixel_statistics(name_or_folder))
    return tower if image_size is None else tower.resized(image_size)


def image_transform(config: TransformConfig, encoder: ImageEncoder, *, train: bool) -> ImageTransform:
    """The transform of a recipe; "encoder" normalisation takes the pixel statistics of the encoder."""
    return build_transform(config, train=train, encoder_statistics=(encoder.pixel_mean, encoder.pixel_std))


def resize_images(model: PreTrainedModel, image_size: int) -> None:
    """Make a model read images of another size: a checkpoint pre-trained at 256 px is fine-tuned at 384, say.

    Position embeddings are interpolated once (bicubic), so the new ones are trained and saved; ``model.config`` says
    so. A frozen encoder stays frozen.

    Args:
        model: with an ``image_encoder``, such as an `AlbefModel`; changed in place.
        image_size: height and width in pixels of the images to come.

    Raises:
        ConfigError: the encoder cannot take images of that size.
    """
    encoder = model.image_encoder
    resized = encoder.resized(image_size)
    if resized is encoder:
        return
    resized.train(encoder.training)
    for new, old in zip(resized.parameters(), encoder.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    if encoder.frozen:
        resized.freeze()
    model.image_encoder = resized.to(model.device)
    model.config.image_encoder = resized.config


def _is_pooling(key: str) -> bool:
    return bool({"pooler", "head"} & set(key.split(".")))


def _pixel_statistics(name_or_folder: str | Path) -> dict[str, tuple[float, float, float]]:
    """Mean and deviation as the checkpoint's image processor states them; nothing, where it has no processor."""
    try:
        processor = AutoImageProcessor.from_pretrained(name_or_folder, trust_remote_code=False)
    except LOADING_ERRORS:
        return {}
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    return {} if mean is None or std is None else {"pixel_mean": tuple(mean), "pixel_std": tuple(std)}
