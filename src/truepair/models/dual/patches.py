"""SigLIP 2's images of any shape (NaFlex, Tschannen et al. 2025, section 2.4): patches and their grid in one tensor.

So images can be stacked, cached and cut into micro-batches like all others.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BaseImageProcessor


class Patches(NamedTuple):
    """A batch of B images as `Siglip2VisionModel` reads them."""

    pixel_values: Tensor
    """The pixels of P patches, [B, P, D]; behind an image's own they are 0."""
    pixel_attention_mask: Tensor
    """1 for the image's own patches, [B, P] int32."""
    spatial_shapes: Tensor
    """Rows and columns of patches of each image, [B, 2] int64."""


def makes_patches(processor: BaseImageProcessor) -> bool:
    """Whether a processor makes patches of images, and not images of one size."""
    return "spatial_shapes" in processor.model_input_names


def pack_patches(made: Mapping[str, Tensor]) -> Tensor:
    """What such a processor makes of an image as float32 [1 + P, D]: first its rows and columns, then P patches."""
    patches = made["pixel_values"][0].float()  # [P, D]
    shape = made["spatial_shapes"][0].float()  # [2]
    return torch.cat([F.pad(shape, (0, patches.shape[1] - 2))[None], patches])


def unpack_patches(packed: Tensor) -> Patches:
    """A stack of packed images [B, 1 + P, D] as the model reads it."""
    shapes, patches = packed[:, 0, :2].long(), packed[:, 1:]  # [B, 2], [B, P, D]
    numbers = torch.arange(patches.shape[1], device=packed.device)  # [P]
    return Patches(patches, (numbers < shapes.prod(dim=1, keepdim=True)).int(), shapes)
