"""Image and text states of a batch: from the encoders, from a cache, or part by part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from truepair.data.pairs import PairBatch
from truepair.engine.distributed.gathering import gather, gather_batch, gather_padded
from truepair.engine.loop.step import StepInfo
from truepair.errors import ConfigError
from truepair.models.encoders.frozen_captions import CaptionStates
from truepair.models.encoders.frozen_images import ImageStates
from truepair.models.fusion.albef import AlbefModel, Encoded
from truepair.models.fusion.fusion_encoder import ImageKeysValues

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class MicroBatches:
    """How a batch is taken apart for the encoders and the fusion encoder.

    As in GradCache (Gao et al. 2021): the first pass computes features, losses and all decisions on the whole batch,
    and keeps states, but no activations. In the backward pass one part after the other is computed again, with the same
    random draws, and given its gradient. So gradients are those of the whole batch, and memory for activations is that
    of a part.

    Attributes:
        size: Pairs of a part; 0: the batch is one part, and nothing is computed twice.
    """

    size: int = 0

    def slices(self, count: int) -> list[slice]:
        """The parts of some rows, in order."""
        size = self.size or max(count, 1)
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]

    def call(self, function: Callable[..., _Result], *inputs: Tensor) -> _Result:
        """Call a pure function of a part; its activations are forgotten until the backward pass.

        Args:
            function: Draws random numbers from the default generator alone.
            inputs: Tensors, of which at least one is on the device where numbers are drawn.
        """
        if not self.size or not torch.is_grad_enabled():
            return function(*inputs)
        return checkpoint(function, *inputs, use_reentrant=False)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts; of a single one without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class Towers:
    """Image and text states of a batch.

    Args:
        model: holds the encoders and their projections.
        freeze_image: the image encoder is not trained; without a cache it still runs, without gradient.
        freeze_text: the text layers are not trained.
        image_cache: states of the images of the data set, row by row; the image encoder does not run at all.
        caption_cache: states of the captions of the data set; the text encoder runs on masked captions only.
        seed: seed of the run; chooses among the cached views.
        parts: how much of a batch is encoded at once.

    Raises:
        ConfigError: the image encoder that is to see parts of a batch has batch normalisation.
    """

    def __init__(
        self,
        model: AlbefModel,
        *,
        freeze_image: bool = False,
        freeze_text: bool = False,
        image_cache: ImageStates | None = None,
        caption_cache: CaptionStates | None = None,
        seed: int = 0,
        parts: MicroBatches | None = None,
    ) -> None:
        self.model = model
        self.freeze_image = freeze_image
        self.freeze_text = freeze_text
        self.image_cache = image_cache
        self.caption_cache = caption_cache
        self.seed = seed
        self.parts = parts or MicroBatches()
        if self.parts.size and not freeze_image and any(isinstance(m, _BatchNorm) for m in model.modules()):
            raise ConfigError(
                "loop.micro_batch: this image encoder normalises over the batch, which parts of it would change; "
                "set model.freeze_image, or take another encoder"
            )
        model.image_encoder.requires_grad_(not freeze_image)
        model.text_encoder.requires_grad_(not freeze_text)

    def of_copy(self, model: AlbefModel) -> "Towers":
        """The same sources of states for a copy of the model that is not trained itself."""
        return Towers(
            model,
            freeze_image=True,
            freeze_text=True,
            image_cache=self.image_cache,
            caption_cache=self.caption_cache,
            seed=self.seed,
            parts=self.parts,
        )

    def encode_images(self, batch: PairBatch, epoch: int) -> tuple[list[Tensor], Tensor]:
        """States of the batch's images part by part, each [n, N, W], and the features of all [B, E]."""
        states = [self._image_states(batch, rows, epoch) for rows in self.parts.slices(len(batch))]
        return states, joined([self.model.project_image(part) for part in states])

    def encode_text(self, batch: PairBatch) -> Encoded:
        """States [B, L, D] and features [B, E] of the batch's captions."""
        ids, mask = batch.input_ids, batch.attention_mask
        if self.caption_cache is not None:
            states = self.caption_cache.gather(batch.captions)[0].to(ids.device)
        else:
            parts = self.parts.slices(len(batch))
            states = joined([self.parts.call(self.text_states, ids[rows], mask[rows]) for rows in parts])
        return Encoded(states, self.model.project_text(states, mask))

    def text_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask [B, L] to text states [B, L, D]."""
        if not self.freeze_text:
            return self.model.text_states(input_ids, attention_mask)
        self.model.text_encoder.eval()  # the loop's train() would switch the dropout of the frozen layers on again
        with torch.no_grad():
            return self.model.text_states(input_ids, attention_mask)

    def _image_states(self, batch: PairBatch, rows: slice, epoch: int) -> Tensor:
        """States of the images of some rows [n, N, W]."""
        if self.image_cache is not None:
            return self.image_cache.visit(batch.source_index[rows], epoch, self.seed).to(batch.input_ids.device)
        assert batch.pixel_values is not None, "without a cache, the dataset must deliver pixels"
        pixels = batch.pixel_values[rows]
        if not self.freeze_image:
            return self.parts.call(self.model.image_states, pixels)
        self.model.image_encoder.eval()
        with torch.no_grad():
            return self.model.image_states(pixels)


class ImagePart(NamedTuple):
    """Some images of this rank, as the fusion encoder reads them.

    Attributes:
        rows: Their rows among the pairs of all ranks.
        keys_values: Computed once per image.
    """

    rows: slice
    keys_values: ImageKeysValues


@dataclass(frozen=True)
class StepView:
    """The B pairs of a step over all ranks, and the b pairs of this rank among them.

    Attributes:
        batch: The pairs of all ranks; their pixels are there on one rank, or if a judge reads them.
        local: This rank's pairs.
        own: Rows of this rank's pairs among all.
        image_states: States of this rank's images, part by part, each [n, N, W].
        image_features: Image features of all ranks [B, E].
        text_features: Text features of all ranks [B, E].
        text_states: Text states of all ranks [B, L, D].
        temperature: ITC temperature, with gradient.
        info: Where the run stands.
    """

    batch: PairBatch
    local: PairBatch
    own: slice
    image_states: list[Tensor]
    image_features: Tensor  # [B, E]
    text_features: Tensor  # [B, E]
    text_states: Tensor  # [B, L, D]
    temperature: Tensor
    info: StepInfo

    @classmethod
    def of(cls, local: PairBatch, towers: Towers, info: StepInfo, rank: int, *, pixels: bool) -> "StepView":
        """Encode this rank's pairs, and bring those of all ranks together.

        Args:
            local: This rank's pairs.
            towers: Encode them.
            info: Where the run stands.
            rank: This process.
            pixels: Whether the images of other ranks are needed.
        """
        # Images come last: so the backward pass frees their activations, the largest, before it comes to the texts.
        text = towers.encode_text(local)
        image_states, image_features = towers.encode_images(local, info.epoch)
        return cls(
            batch=gather_batch(local, pixels=pixels),
            local=local,
            own=slice(rank * len(local), (rank + 1) * len(local)),
            image_states=image_states,
            image_features=gather(image_features),
            text_features=gather(text.feature),
            text_states=gather_padded(text.states),
            temperature=towers.model.temperature,
            info=info,
        )

    @property
    def size(self) -> int:
        """Pairs of all ranks, B."""
        return len(self.image_features)

    @property
    def alone(self) -> bool:
        """Whether there is one rank."""
        return self.size == len(self.local)

    @property
    def logits(self) -> Tensor:
        """Similarity of all images (rows) and texts (columns) over the temperature, without gradient [B, B]."""
        return self.similarity / self.temperature.detach()

    @property
    def similarity(self) -> Tensor:
        """Cosines of all images (rows) and texts (columns), without gradient, in float32 or wider [B, B]."""
        images, texts = (full_precision(part.detach()) for part in (self.image_features, self.text_features))
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would make ties of the hardest candidates
            return images @ texts.T


def full_precision(features: Tensor) -> Tensor:
    """Features in float32, or in their own type if that is wider."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
