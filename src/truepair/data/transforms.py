"""Images to tensors: sizes, normalisation and augmentation."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, v2

from truepair.data.images import DEFAULT_MAX_PIXELS, describe, load_image, memory_for
from truepair.data.pixels import Part, as_image, as_pixels, load_part
from truepair.data.rand_augment import AlbefRandAugment
from truepair.errors import ConfigError
from truepair.settings import Natural, Share, Within, check_settings

PixelStatistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, for pixels in 0..1."""

NORMALISATIONS: dict[str, PixelStatistics] = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

_INTERPOLATIONS = {name: InterpolationMode(name) for name in ("bicubic", "bilinear", "lanczos", "nearest")}

_OF_TENSORS = ("bicubic", "bilinear")  # what v2 does to tensors as Pillow does it; the others are Pillow's own

ASPECTS = (3 / 4, 4 / 3)
"""Least and largest width over height of a random crop."""

_LOG_ASPECTS = tuple(torch.tensor(ASPECTS).log().tolist())

_ATTEMPTS = 10  # crops that are drawn before the middle is taken

Operations = Annotated[int, Within(0, 20)]

Level = Annotated[int, Within(0, 10)]


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """How images become tensors. The defaults are ALBEF's and MAFA's.

    Attributes:
        size: side of the square image the model reads, in pixels; 0 for that of the model that training starts from.
        normalisation: "clip", "imagenet", "none" (pixels in 0..1), or "encoder": as the image encoder was trained.
        interpolation: "bicubic", "bilinear", "lanczos" or "nearest"; models of the hub resize as their processor does.
        crop_scale: training: least and largest share of the area that RandomResizedCrop keeps; (1, 1) crops nothing.
        flip: training: probability of a horizontal flip; 0 where left and right carry meaning: arrows, flags, text.
        rand_augment_ops: training: operations of RandAugment per image; 0 for none.
        rand_augment_level: training: their strength, 0 to 10.
        evaluation_resize: "squash" scales both sides to ``size``; "crop" scales the shorter side and takes the centre.
    """

    size: Natural = 256
    normalisation: str = "clip"
    interpolation: str = "bicubic"
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: Share = 0.5
    rand_augment_ops: Operations = 2
    rand_augment_level: Level = 7
    evaluation_resize: str = "squash"

    def __post_init__(self) -> None:
        _check_choice("normalisation", self.normalisation, [*NORMALISATIONS, "encoder"])
        _check_choice("interpolation", self.interpolation, _INTERPOLATIONS)
        _check_choice("evaluation_resize", self.evaluation_resize, ("squash", "crop"))
        smallest, largest = self.crop_scale
        if not 0 < smallest <= largest <= 1:
            raise ConfigError(f"crop_scale is {self.crop_scale}; give two rising shares between 0 and 1")
        check_settings(self, "transform")


def build_transform(
    config: TransformConfig,
    *,
    train: bool,
    encoder_statistics: PixelStatistics | None = None,
    size: tuple[int, int] | None = None,
) -> "PixelTransform":
    """Build the training transform (crop, flip, RandAugment) or the evaluation transform (resize); both end normalised.

    Args:
        config: what to do.
        train: augment. The evaluation transform draws nothing.
        encoder_statistics: mean and standard deviation of each channel that the image encoder expects; for "encoder".
        size: height and width of the tensors of training, in pixels; None for a square of ``config.size``.

    Returns:
        A transform to float32 [3, H, W].

    Raises:
        ConfigError: "encoder" normalisation without the encoder's statistics.
    """
    last = Normalise(*normalisation(config, encoder_statistics))
    if not train:
        sides = (config.size, config.size)
        choose, steps, least = partial(_whole, config.size), _evaluation_steps(config), config.size
    else:
        sides = (config.size, config.size) if size is None else size
        choose, least = partial(_drawn, config.crop_scale, sides), min_side(max(sides), config)
        steps = [_Resize(sides, config.interpolation), *augmentation(config)]
    return PixelTransform(choose, *steps, last=last, sides=sides, min_side=least)


def min_side(side: int, config: TransformConfig) -> int:
    """Pixels that the shorter side of an image must have, so that what its smallest crop keeps still has ``side``."""
    return math.ceil(side / math.sqrt(config.crop_scale[0] * ASPECTS[0]))


def normalisation(config: TransformConfig, encoder_statistics: PixelStatistics | None = None) -> PixelStatistics:
    """What a transform subtracts from each channel, and what it divides by after that.

    Args:
        config: the transform.
        encoder_statistics: what the image encoder expects; for "encoder".

    Raises:
        ConfigError: "encoder" normalisation without the encoder's statistics.
    """
    statistics = NORMALISATIONS | ({} if encoder_statistics is None else {"encoder": encoder_statistics})
    if config.normalisation not in statistics:
        raise ConfigError("normalisation is 'encoder', but no image encoder is given here; give clip, imagenet or none")
    return statistics[config.normalisation]


class ImageTransform:
    """From an 8-bit RGB image to float32 [3, H, W], in steps, with the least size the image must be decoded at.

    Any random draws must come from torch's global CPU generator: ``PairDataset`` keys that by sample.

    Args:
        steps: callables, applied in order; the last returns the tensor.
        min_side: JPEGs may be decoded smaller as long as both sides keep this many pixels; None decodes at full size.

    Attributes:
        sides: height and width of all tensors it makes, if they are known before; then they can be written in a place.
    """

    sides: tuple[int, int] | None = None

    def __init__(self, *steps: Callable[[Any], Any], min_side: int | None = None) -> None:
        self.steps = steps
        self.min_side = min_side

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform an image into float32 [3, H, W]."""
        return cast(Tensor, self._stepped(image))

    def read(
        self, stored: Mapping[str, Any], max_pixels: int = DEFAULT_MAX_PIXELS, into: Tensor | None = None
    ) -> Tensor:
        """Read an image of a ``PairTable``, as :func:`load_image` does, and transform it into float32 [3, H, W].

        Args:
            stored: the image.
            max_pixels: largest width x height.
            into: where to write it, float32 [3, *sides], if ``sides`` are known; None for a new tensor.

        Raises:
            BadImageError: it cannot be read, or memory has no room for it.
        """
        assert into is None, "the sides of what this makes are not known before"
        with memory_for(describe(stored)):
            return self(load_image(stored, min_side=self.min_side, max_pixels=max_pixels))

    def _stepped(self, value: Any) -> Any:
        for step in self.steps:
            value = step(value)
        return value


class PixelTransform(ImageTransform):
    """A transform that first chooses the part of an image that it needs, and then works on its uint8 tensor.

    Resized pixels are within 2 of 255 of those that Pillow makes of the same part, decoded at the same size; of
    photographs, 2 in 100,000 values are not, by up to 9: beside the hardest edges, where Pillow may resize rows and
    columns in the other order, and cuts between what overshoots. Operations of RandAugment are within 1 of Pillow's.

    Args:
        choose: the part to keep of an image of some height and width, before it is decoded.
        steps: callables, applied in order; the first is given uint8 [h, w, 4], and the last makes it [*sides, 4].
        last: what normalises that.
        sides: height and width of all tensors.
        min_side: as of `ImageTransform`; for those who decode images without transforming them.
    """

    def __init__(
        self,
        choose: Callable[[int, int], Part],
        *steps: Callable[[Any], Any],
        last: "Normalise",
        sides: tuple[int, int],
        min_side: int,
    ) -> None:
        super().__init__(*steps, min_side=min_side)
        self.choose = choose
        self.last = last
        self.sides = sides

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform an image into float32 [3, H, W]."""
        return self.last(self._stepped(self.choose(image.height, image.width).of(as_pixels(image))))

    def read(
        self, stored: Mapping[str, Any], max_pixels: int = DEFAULT_MAX_PIXELS, into: Tensor | None = None
    ) -> Tensor:
        """Read the part of an image that is needed, see :func:`load_part`, and make it float32 [3, H, W].

        Raises:
            BadImageError: it cannot be read, or memory has no room for it.
        """
        with memory_for(describe(stored)):
            return self.last(self._stepped(load_part(stored, self.choose, max_pixels)), into)


class Normalise:
    """From uint8 [H, W, 4] to normalised float32 [3, H, W], in one pass; v2's two steps take several times as long."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.scale = (1 / (255 * torch.tensor(std)))[:, None, None]  # [3, 1, 1]
        self.shift = (-torch.tensor(mean) / torch.tensor(std))[:, None, None]  # [3, 1, 1]

    def __call__(self, pixels: Tensor, into: Tensor | None = None) -> Tensor:
        """Normalise an image, into a place [3, H, W] if one is given."""
        colours = pixels[..., :3].permute(2, 0, 1)
        values = torch.empty(colours.shape) if into is None else into
        return values.copy_(colours).mul_(self.scale).add_(self.shift)


class _Resize:
    """From uint8 [h, w, 4] to [H, W, 4], as Pillow resizes.

    Args:
        size: height and width, or the length of the shorter side.
        interpolation: one of ``_INTERPOLATIONS``.
    """

    def __init__(self, size: tuple[int, int] | int, interpolation: str) -> None:
        self.size = [size] if isinstance(size, int) else list(size)
        self.interpolation = interpolation

    def __call__(self, pixels: Tensor) -> Tensor:
        if self.interpolation not in _OF_TENSORS:
            mode = _INTERPOLATIONS[self.interpolation]
            return as_pixels(v2.functional.resize(as_image(pixels), self.size, mode))
        height, width = pixels.shape[:2]
        size = self.size
        if len(size) == 1:
            size = [size[0] * height // min(height, width), size[0] * width // min(height, width)]
        if size == [height, width]:
            return pixels
        channels = pixels[None].permute(0, 3, 1, 2)  # [1, 4, h, w]; in this order, for torch looks at the first stride
        resized = F.interpolate(channels, size, mode=self.interpolation, antialias=True)
        return resized[0].permute(1, 2, 0).contiguous()


def _whole(side: int, height: int, width: int) -> Part:
    """All of an image, of which each side must keep so many pixels."""
    return Part(0, 0, height, width, (side, side))


def _drawn(scale: tuple[float, float], least: tuple[int, int], height: int, width: int) -> Part:
    """What training keeps: a random part with a share of the area from a range, or all of it.

    The part, and what is drawn for it, are those of torchvision's RandomResizedCrop, in half the time.
    """
    if scale == (1.0, 1.0):
        return Part(0, 0, height, width, least)
    number = torch.empty(())
    for _ in range(_ATTEMPTS):
        area = height * width * number.uniform_(*scale).item()
        aspect = number.uniform_(*_LOG_ASPECTS).exp_().item()
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            return Part(_below(height - rows + 1), _below(width - columns + 1), rows, columns, least)
    rows = min(height, round(width / ASPECTS[0]))  # all of it, up to the aspects that a crop may have
    columns = min(width, round(height * ASPECTS[1]))
    return Part((height - rows) // 2, (width - columns) // 2, rows, columns, least)


def _below(count: int) -> int:
    return int(torch.randint(count, ()))


def _flipped(probability: float, pixels: Tensor) -> Tensor:
    """An image [H, W, 4], mirrored by chance."""
    if float(torch.rand(1)) >= probability:
        return pixels
    return pixels.view(torch.int32).flip(1).view(torch.uint8)  # a pixel at once


def _centre(side: int, pixels: Tensor) -> Tensor:
    """The square in the middle of an image [H, W, 4] whose shorter side has as many pixels."""
    top, left = (round((length - side) / 2) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def augmentation(config: TransformConfig) -> list[Callable[[Tensor], Tensor]]:
    """What training does to an image, uint8 [H, W, 4], after cropping: flip and RandAugment; its size stays."""
    steps: list[Callable[[Tensor], Tensor]] = []
    if config.flip:
        steps.append(partial(_flipped, config.flip))
    if config.rand_augment_ops:
        steps.append(AlbefRandAugment(config.rand_augment_ops, config.rand_augment_level))
    return steps


def _evaluation_steps(config: TransformConfig) -> list[Callable[[Tensor], Tensor]]:
    if config.evaluation_resize == "squash":
        return [_Resize((config.size, config.size), config.interpolation)]
    return [_Resize(config.size, config.interpolation), partial(_centre, config.size)]


def _check_choice(name: str, value: str, choices: object) -> None:
    names = list(choices)  # type: ignore[call-overload]
    if value not in names:
        raise ConfigError(f"{name} is '{value}'; give one of {', '.join(names)}")
