"""The image processor and the tokenizer of a transformers model, as the way of pictures and captions to it."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from truepair.data.pixels import as_image, as_pixels
from truepair.data.preprocessing import Preprocessing, own_length, own_pixels
from truepair.data.tokens import unknown_token, wordless_tokens
from truepair.data.transforms import (
    ASPECTS,
    ImageTransform,
    PixelStatistics,
    TransformConfig,
    augmentation,
    build_transform,
    min_side,
)
from truepair.errors import ConfigError
from truepair.models.dual.patches import makes_patches, pack_patches

_RESAMPLING = {
    Image.Resampling.NEAREST: "nearest",
    Image.Resampling.LANCZOS: "lanczos",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}

# Settings of augmentation; all else of a transform is the processor's to say.
_AUGMENTATION = ("crop_scale", "flip", "rand_augment_ops", "rand_augment_level")

_BLACK, _WHITE, _COLOUR = (0, 0, 0), (255, 255, 255), (10, 100, 200)


@dataclass(frozen=True)
class HubPreprocessing(Preprocessing):
    """The image processor and the tokenizer that belong to a transformers model, and the augmentation of training.

    Attributes:
        processor: makes plain images into pixels.
        tokenizer: called as it is, with its own special tokens.
        max_length: most tokens of a caption; saved as the tokenizer's own.
        transform: crop, flip and RandAugment of training, and the size that the processor makes. Interpolation and
            normalisation are the processor's, whatever stands here.
        full_length: whether all captions are padded to ``max_length`` with a token that the model reads like any other.
    """

    processor: BaseImageProcessor
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    transform: TransformConfig
    full_length: bool = False

    def __post_init__(self) -> None:
        if self.full_length and self.tokenizer.pad_token_id is None:
            raise ConfigError("captions of this model are padded to full length, but its tokenizer has no pad_token")

    @property
    def tokenization(self) -> "HubTokenization":
        """From captions to token ids."""
        return HubTokenization(self.tokenizer, self.max_length, self.full_length)

    def images(self, *, train: bool = False) -> ImageTransform:
        """From an image to float32 pixels: augmented, or what the processor makes of it.

        Pixels are [3, H, W] or, where the processor makes patches of each image's own shape, those patches as
        `pack_patches` packs them.

        Raises:
            ConfigError: the processor does not make all images of one size, or augmentation cannot follow it.
        """
        pixels = partial(_processed, self.processor)
        if not train:
            return ImageTransform(pixels)
        if makes_patches(self.processor):
            return self._augmented_patches()
        size, statistics = pixel_size(self.processor), _statistics(self.processor)
        config = replace(self.transform, normalisation="encoder", interpolation=_interpolation(self.processor))
        return build_transform(config, train=True, encoder_statistics=statistics, size=size)

    def caption_settings(self) -> dict[str, Any]:
        """What the tokens of a caption depend on."""
        settings = {"max_length": self.max_length, "full_length": self.full_length}
        return {"tokenizer": self.tokenizer.get_vocab(), **settings}

    def image_settings(self, *, train: bool = False) -> dict[str, Any]:
        """What the pixels of an image depend on."""
        augmented = asdict(self.transform) if train else {}
        return {"processor": json.loads(self.processor.to_json_string())} | {
            name: augmented[name] for name in _AUGMENTATION if train
        }

    def adapted(self, transform: TransformConfig, max_length: int) -> Self:
        """The same with the augmentation of a recipe, and captions cut shorter, see `Preprocessing.adapted`."""
        if self.full_length and max_length not in (0, self.max_length):
            raise ConfigError(
                f"text.max_length is {max_length}, but all captions of this model are padded to {self.max_length} "
                "tokens; set it to 0"
            )
        return replace(
            self,
            transform=own_pixels(transform, self.transform.size),
            max_length=own_length(max_length, self.max_length),
        )

    def save(self, folder: Path) -> None:
        """Write both beside the model, as transformers reads them."""
        self.processor.save_pretrained(folder)
        self.tokenizer.model_max_length = self.max_length
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # it remembers how it was called last, and would write that down
            backend.no_truncation()
            backend.no_padding()
        self.tokenizer.save_pretrained(folder)

    def _augmented_patches(self) -> ImageTransform:
        """Augmentation before the processor: a crop keeps about the image's own shape, and is not distorted."""
        return ImageTransform(
            partial(_crop, self.transform.crop_scale),
            as_pixels,
            *augmentation(self.transform),
            as_image,
            partial(_processed, self.processor),
            min_side=min_side(self.transform.size, self.transform),
        )


@dataclass(frozen=True)
class HubTokenization:
    """A tokenizer with its own special tokens.

    Attributes:
        tokenizer: any of transformers.
        max_length: most tokens of a caption.
        full_length: pad all captions to that, on the side and with the token that the tokenizer says.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    full_length: bool = False

    @property
    def padding(self) -> int:
        """The id that fills up shorter captions; models are given a mask that hides it."""
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def unknown(self) -> int | None:
        """The id of unknown words."""
        return unknown_token(self.tokenizer)

    @property
    def special(self) -> frozenset[int]:
        """The ids of tokens that stand for no word."""
        return wordless_tokens(self.tokenizer)

    def __call__(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption, cut to the longest that the model reads."""
        ids: list[list[int]] = self.tokenizer(
            list(captions),
            truncation=True,
            max_length=self.max_length,
            padding="max_length" if self.full_length else False,
            return_attention_mask=False,
        )["input_ids"]
        return ids

    def uncut(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption if it were neither cut nor padded."""
        ids: list[list[int]] = self.tokenizer(list(captions), return_attention_mask=False, verbose=False)["input_ids"]
        return ids

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has if it is neither cut nor padded."""
        return [len(tokens) for tokens in self.uncut(captions)]


def pixel_size(processor: BaseImageProcessor) -> tuple[int, int]:
    """Height and width of the images that a processor makes.

    Raises:
        ConfigError: they depend on the image, so that images cannot be stacked.
    """
    sizes = {tuple(_processed(processor, Image.new("RGB", size)).shape[1:]) for size in ((40, 60), (60, 40))}
    if len(sizes) > 1:
        raise ConfigError(
            f"the image processor, {type(processor).__name__}, makes images of several sizes {sorted(sizes)}; in "
            "preprocessor_config.json, set its size to a height and a width, or do_center_crop to true"
        )
    height, width = sizes.pop()
    return height, width


def image_side(processor: BaseImageProcessor) -> int:
    """The longer side of the images that a processor makes, in pixels; of patches, that of a square image of them.

    Raises:
        ConfigError: as for :func:`pixel_size`.
    """
    if makes_patches(processor):
        return math.ceil(math.sqrt(processor.max_num_patches)) * int(processor.patch_size)
    return max(pixel_size(processor))


def _processed(processor: BaseImageProcessor, image: Image.Image) -> Tensor:
    """What a processor makes of an image: float32 [3, H, W], or packed patches."""
    made = processor(images=image, return_tensors="pt")
    return pack_patches(made) if makes_patches(processor) else made["pixel_values"][0].float()


def _statistics(processor: BaseImageProcessor) -> PixelStatistics:
    """Mean and standard deviation of each channel, found by giving the processor images of one colour.

    Processors name and order their rescaling and normalisation differently; all that is needed is that each channel is
    scaled and shifted.

    Raises:
        ConfigError: a processor does something else.
    """
    black, white, colour = (_of_one_colour(processor, rgb) for rgb in (_BLACK, _WHITE, _COLOUR))  # [3]
    std = 1 / (white - black)
    mean = -black * std
    expected = (torch.tensor(_COLOUR) / 255 - mean) / std
    if not torch.allclose(expected, colour, rtol=1e-4, atol=1e-4):
        raise ConfigError(
            f"the image processor, {type(processor).__name__}, does more to colours than scale them, so training "
            "cannot augment its images; cache them plain with model.freeze_image and model.cache_images"
        )
    return tuple(mean.tolist()), tuple(std.tolist())


def _of_one_colour(processor: BaseImageProcessor, colour: tuple[int, int, int]) -> Tensor:
    """The pixel in the middle [3] of what a processor makes of an image of one colour, in double precision."""
    pixels = _processed(processor, Image.new("RGB", (64, 64), colour))
    return pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2].double()


def _interpolation(processor: BaseImageProcessor) -> str:
    """How a processor resizes.

    Raises:
        ConfigError: in a way that training does not know.
    """
    resample = getattr(processor, "resample", Image.Resampling.BICUBIC)
    if resample not in _RESAMPLING:
        raise ConfigError(
            f"the image processor resamples by {resample!r}; set its resample to 2 (bilinear) or 3 (bicubic)"
        )
    return _RESAMPLING[resample]


def _crop(scale: tuple[float, float], image: Image.Image) -> Image.Image:
    """A random part of an image, with a share of its area and about its shape; no pixel is changed."""
    if scale == (1.0, 1.0):
        return image
    shape = image.width / image.height
    top, left, height, width = RandomResizedCrop.get_params(image, list(scale), [shape * aspect for aspect in ASPECTS])
    return image.crop((left, top, left + width, top + height))
