"""A gallery: images and captions encoded once, so that any pair of them can be compared, or read by a fusion model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.models.dual.base import DualEncoder, FusionModel
from truepair.models.encoders.frozen_captions import CaptionStates, EncodeCaptions


@dataclass(frozen=True)
class EncodedImages:
    """States and features of I images, on the CPU.

    Attributes:
        states: float16 [I, N, W]; half precision, since a large gallery is mostly this.
        features: float32 [I, E], L2-normalised; [I, Q, E] of a model with queries.
    """

    states: Tensor
    features: Tensor


@dataclass(frozen=True)
class EncodedCaptions:
    """States and features of T captions, on the CPU.

    Attributes:
        mask: 1 on tokens, int64 [T, L].
        states: float16 [T, L, D]; or the pooled ones alone [T, 1, D], where a model hands out no others.
        features: float32 [T, E], L2-normalised.
    """

    mask: Tensor
    states: Tensor
    features: Tensor


@torch.inference_mode()
def encode_images(model: DualEncoder, batches: Iterable[Tensor], *, are_states: bool = False) -> EncodedImages:
    """Encode images.

    Args:
        model: in evaluation mode.
        batches: pixels [B, 3, H, W]; or, with ``are_states``, what the frozen image tower made of them [B, N, W].
        are_states: the batches are image states already.
    """
    states, features = [], []
    for batch in batches:
        part = batch.to(model.device)
        part = part if are_states else model.image_states(part)
        states.append(part.half().cpu())
        features.append(model.project_image(part).float().cpu())
    return EncodedImages(torch.cat(states), torch.cat(features))


@torch.inference_mode()
def encode_captions(
    model: DualEncoder,
    captions: Sequence[str],
    encode: EncodeCaptions,
    *,
    cache: CaptionStates | None = None,
    batch_size: int = 256,
) -> EncodedCaptions:
    """Encode captions.

    Args:
        model: in evaluation mode.
        captions: T texts.
        encode: the tokenization the model was trained with.
        cache: what the frozen text tower made of them; it does not run then.
        batch_size: texts encoded at once.
    """
    ids, mask = encode(captions)  # [T, L], [T, L]
    states, features = [], []
    for start in range(0, len(ids), batch_size):
        part = slice(start, start + batch_size)
        on_device = mask[part].to(model.device)
        if cache is None:
            of_part = model.text_states(ids[part].to(model.device), on_device)
        else:
            of_part = cache.gather(captions[part])[0].to(model.device)
            of_part = F.pad(of_part, (0, 0, 0, mask.shape[1] - of_part.shape[1]))  # [B, L, D]
        states.append(of_part.half().cpu())
        features.append(model.project_text(of_part, on_device).float().cpu())
    return EncodedCaptions(mask, torch.cat(states), torch.cat(features))


class GalleryMatcher:
    """The ITM head's opinion of any pair of a gallery: log-odds that caption and image match.

    Args:
        model: in evaluation mode; one that does not fuse has no opinion, and is not to be asked.
        images: encoded by it.
        captions: encoded by it.
    """

    def __init__(self, model: DualEncoder, images: EncodedImages, captions: EncodedCaptions) -> None:
        self.model = model
        self.images = images
        self.captions = captions

    @torch.inference_mode()
    def __call__(self, images: Tensor, captions: Tensor) -> Tensor:
        """Judge pairs; image keys and values are computed once per distinct image.

        Args:
            images: image numbers, int64 [P].
            captions: caption numbers, int64 [P].

        Returns:
            Log-odds [P], float32 on the CPU.
        """
        assert isinstance(self.model, FusionModel), "ask only models whose `itm_trained` is true"
        device = self.model.device
        distinct, image_rows = images.unique(return_inverse=True)  # [U], [P]
        keys_values = self.model.image_keys_values(self.images.states[distinct].float().to(device))
        mask = self.captions.mask[captions]  # [P, L]
        length = int(mask.sum(dim=1).max())  # the longest caption of this chunk; padding costs as much as words
        mask = mask[:, :length].to(device)
        states = self.captions.states[captions, :length].float().to(device)
        fused = self.model.fuse(states, mask, keys_values, image_rows.to(device), cls_only=True)
        logits = self.model.match(
            fused, self.images.features[images].to(device), self.captions.features[captions].to(device)
        )  # [P, 2]
        return (logits[:, 1] - logits[:, 0]).float().cpu()
