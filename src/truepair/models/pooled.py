"""The mean of an image's states in place of all of them."""

from torch import Tensor

from truepair.models.encoder_base import ImageEncoder


class PooledEncoder(ImageEncoder):
    """An image encoder that hands out one state an image, the mean of its states.

    Models with ``image_pooling`` "mean" project it to the same feature; a fusion encoder has little left to read.

    Args:
        encoder: the encoder.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        self.width = encoder.width
        self.image_size = encoder.image_size
        self.pixel_mean, self.pixel_std = encoder.pixel_mean, encoder.pixel_std

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, H, W] to states [B, 1, W]."""
        states: Tensor = self.encoder(pixel_values)  # [B, N, W]
        return states.mean(dim=1, keepdim=True)

    def resized(self, image_size: int) -> "PooledEncoder":
        """The same for images of another size."""
        return PooledEncoder(self.encoder.resized(image_size))
