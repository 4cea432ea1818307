"""How images reach an image encoder."""

from truepair.data.transforms import ImageTransform, PixelStatistics, TransformConfig, build_transform, normalisation
from truepair.models.encoder_base import ImageEncoder


def image_transform(config: TransformConfig, encoder: ImageEncoder, *, train: bool) -> ImageTransform:
    """The transform of a recipe; "encoder" normalisation takes the pixel statistics of the encoder."""
    return build_transform(config, train=train, encoder_statistics=(encoder.pixel_mean, encoder.pixel_std))


def pixel_statistics(config: TransformConfig, encoder: ImageEncoder | None) -> PixelStatistics:
    """Mean and standard deviation of each channel that ``image_transform`` normalises by.

    Raises:
        ConfigError: "encoder" normalisation without an encoder.
    """
    return normalisation(config, None if encoder is None else (encoder.pixel_mean, encoder.pixel_std))
