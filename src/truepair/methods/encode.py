"""Encoding a batch: states and features from the towers, from caches of frozen ones, or part by part, of all ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from truepair.data.pairs import PairBatch
from truepair.devices import sent
from truepair.engine.distributed.gathering import gather, gather_padded
from truepair.engine.loop.step import StepInfo
from truepair.errors import ConfigError
from truepair.models.dual.base import DualEncoder, Encoded, ImageKeysValues
from truepair.models.encoders.frozen_captions import CaptionStates
from truepair.models.encoders.frozen_images import ImageStates
from truepair.relations.similarity import similarities
from truepair.sampling.ranks import Ranks

_Result = TypeVar("_Result")

_TEXTS, _IDS = ("captions", "reasons"), ("index", "source_index", "image_id", "caption_id", "caption_key")
"""What stays on the host of a batch."""


@dataclass(frozen=True)
class MicroBatches:
    """How a batch is taken apart for the encoders and the fusion encoder: two passes over it.

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


class BatchEncoder:
    """Encodes batches with a dual encoder whose towers may be frozen, and then cached.

    Args:
        model: The dual encoder.
        image_cache: States of the images of the data set, row by row; the image tower does not run at all.
        caption_cache: States of the captions of the data set; the text tower runs on masked captions only.
        seed: Seed of the run; chooses among the cached views.
        parts: How much of a batch is encoded at once.

    Raises:
        ConfigError: The image tower that is to see parts of a batch has batch normalisation.
    """

    def __init__(
        self,
        model: DualEncoder,
        *,
        image_cache: ImageStates | None = None,
        caption_cache: CaptionStates | None = None,
        seed: int = 0,
        parts: MicroBatches | None = None,
    ) -> None:
        self.model = model
        self.image_cache = image_cache
        self.caption_cache = caption_cache
        self.seed = seed
        self.parts = parts or MicroBatches()
        trained = any(weight.requires_grad for weight in model.image_tower.parameters())
        if self.parts.size and trained and any(isinstance(module, _BatchNorm) for module in model.modules()):
            raise ConfigError(
                "loop.micro_batch: this image encoder normalises over the batch, which parts of it would change; "
                "set model.freeze_image, or take another encoder"
            )

    def of_copy(self, model: DualEncoder) -> "BatchEncoder":
        """The same for a copy of the model that is not trained itself."""
        model.freeze(image=True, text=True)
        caches = {"image_cache": self.image_cache, "caption_cache": self.caption_cache}
        return BatchEncoder(model, **caches, seed=self.seed, parts=self.parts)  # type: ignore[arg-type]

    def encode_images(self, batch: PairBatch, epoch: int) -> tuple[list[Tensor], Tensor]:
        """States of the batch's images part by part, each [n, N, W], and the features of all [B, E], or [B, Q, E]."""
        states, features, _ = self.read_images(batch, epoch)
        return states, features

    def read_images(self, batch: PairBatch, epoch: int) -> tuple[list[Tensor], Tensor, list[ImageKeysValues | None]]:
        """The same, and for each part the keys and values for fusion, where the features' pass makes them."""
        states = [self._image_states(batch, rows, epoch) for rows in self.parts.slices(len(batch))]
        features, keys_values = zip(*(self.model.read_images(part) for part in states), strict=True)
        return states, _joined(features), list(keys_values)

    def encode_texts(self, batch: PairBatch) -> Encoded:
        """States [B, L, D] and features [B, E] of the batch's captions."""
        ids, mask = batch.input_ids, batch.attention_mask
        if self.caption_cache is not None:
            states = sent(self.caption_cache.gather(batch.captions)[0], ids.device)
        else:
            parts = self.parts.slices(len(batch))
            states = _joined([self.parts.call(self.model.text_states, ids[rows], mask[rows]) for rows in parts])
        return Encoded(states, self.model.project_text(states, mask))

    def _image_states(self, batch: PairBatch, rows: slice, epoch: int) -> Tensor:
        """States of the images of some rows [n, N, W]."""
        if self.image_cache is not None:
            return sent(self.image_cache.visit(batch.source_index[rows], epoch, self.seed), batch.device)
        assert batch.pixel_values is not None, "without a cache, the dataset must deliver pixels"
        return self.parts.call(self.model.image_states, batch.pixel_values[rows])


@dataclass(frozen=True)
class EncodedBatch:
    """The B pairs of a step over all ranks, and the b pairs of this rank among them: what rules and losses look at.

    Attributes:
        batch: The pairs of all ranks; their pixels are there on one rank, or if a judge reads them.
        local: This rank's pairs.
        own: Rows of this rank's pairs among all.
        image_states: States of this rank's images, part by part, each [n, N, W].
        image_keys_values: Of each part what fusion needs to know, where the pass of the features makes it.
        image_features: Image features of all ranks [B, E]; [B, Q, E] where a model has queries.
        text_features: Text features of all ranks [B, E].
        text_states: Text states of all ranks [B, L, D].
        temperature: ITC temperature, with gradient.
        info: Where the run stands.
    """

    batch: PairBatch
    local: PairBatch
    own: slice
    image_states: list[Tensor]
    image_keys_values: list[ImageKeysValues | None]
    image_features: Tensor  # [B, E] or [B, Q, E]
    text_features: Tensor  # [B, E]
    text_states: Tensor  # [B, L, D]
    temperature: Tensor
    info: StepInfo

    @classmethod
    def of(cls, local: PairBatch, encoder: BatchEncoder, info: StepInfo, *, pixels: bool = False) -> "EncodedBatch":
        """Encode this rank's pairs, and bring those of all ranks together.

        Args:
            local: This rank's pairs.
            encoder: Of the student.
            info: Where the run stands.
            pixels: Whether the images of other ranks are needed.
        """
        # Images come last: so the backward pass frees their activations, the largest, before it comes to the texts.
        text = encoder.encode_texts(local)
        image_states, image_features, image_keys_values = encoder.read_images(local, info.epoch)
        rank = Ranks.current().rank
        return cls(
            batch=gather_batch(local, pixels=pixels),
            local=local,
            own=slice(rank * len(local), (rank + 1) * len(local)),
            image_states=image_states,
            image_keys_values=image_keys_values,
            image_features=gather(image_features),
            text_features=gather(text.features),
            text_states=gather_padded(text.states),
            temperature=encoder.model.temperature,
            info=info,
        )

    @property
    def size(self) -> int:
        """Pairs of all ranks, B."""
        return len(self.image_features)

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.image_features.device

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
        """Similarity of all images (rows) and texts (columns), without gradient, in float32 or wider [B, B]."""
        return self.similarity_of(slice(None), slice(None))

    def similarity_of(self, images: slice, texts: slice) -> Tensor:
        """The same of some images and texts [R, C]."""
        queries, keys = (
            full_precision(part.detach()) for part in (self.image_features[images], self.text_features[texts])
        )
        with torch.autocast(queries.device.type, enabled=False):  # bfloat16 would make ties of the hardest candidates
            return similarities(queries, keys)


def full_precision(features: Tensor) -> Tensor:
    """Features [B, E] or [B, Q, E] in float32, or in their own type if that is wider."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts; of a single one without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def gather_batch(batch: PairBatch, *, pixels: bool = False) -> PairBatch:
    """The pairs of all ranks.

    Args:
        batch: This rank's pairs.
        pixels: Bring the images too; only a judge that reads them needs them.

    Returns:
        All pairs; the batch itself on one rank.
    """
    if Ranks.current().count == 1:
        return batch
    told: list[Any] = [None] * Ranks.current().count
    dist.all_gather_object(told, {name: getattr(batch, name) for name in (*_TEXTS, *_IDS)})
    of_host: dict[str, Any] = {name: [text for of_rank in told for text in of_rank[name]] for name in _TEXTS}
    of_host |= {name: torch.cat([of_rank[name] for of_rank in told]) for name in _IDS}
    return replace(
        batch,
        pixel_values=gather(batch.pixel_values) if pixels and batch.pixel_values is not None else None,
        input_ids=gather_padded(batch.input_ids),
        attention_mask=gather_padded(batch.attention_mask),
        **of_host,
    )
