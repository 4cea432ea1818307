"""The momentum model of ALBEF: a slow copy of the student, its soft targets, and a queue of its features."""

import copy
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from truepair.engine.distributed.gathering import gather
from truepair.methods.contrast import Contrast
from truepair.methods.encode import BatchEncoder, EncodedBatch
from truepair.methods.srcl import of_rows
from truepair.models.dual.base import DualEncoder, FusionModel, require_one_vector
from truepair.objectives.contrastive import Direction
from truepair.objectives.momentum import FeatureQueue
from truepair.objectives.srcl import Regulation
from truepair.relations.batch import BatchRelations
from truepair.relations.pairs import SIDES, PairSet, Side
from truepair.settings import Natural, PartShare, Share, Weight, check_settings


@dataclass(frozen=True, kw_only=True)
class MomentumConfig:
    """The momentum model (ALBEF, section 3.2 and 3.3).

    Attributes:
        decay: Share of its weights that it keeps in each step; ALBEF: 0.995.
        queue_size: Past pairs whose momentum features are further candidates of ITC; ALBEF: 65536, scaled down to the
            training pairs. 0: none.
        distillation: Weight of its soft targets in ITC and MLM; ALBEF: 0.4, reached at the end of the first epoch,
            which ``ramp_epochs`` says.
        ramp_epochs: Epochs over which the weight rises from 0.
    """

    decay: PartShare = 0.995
    queue_size: Natural = 65_536
    distillation: Share = 0.4
    ramp_epochs: Weight = 1.0

    def __post_init__(self) -> None:
        check_settings(self, "momentum")


class MomentumFeatures(NamedTuple):
    """A batch as the momentum model sees it.

    Attributes:
        image_states: States of this rank's images, part by part, each [n, N, W].
        images: Image features of all ranks [B, E].
        texts: Text features of all ranks [B, E].
    """

    image_states: list[Tensor]
    images: Tensor  # [B, E]
    texts: Tensor  # [B, E]


class MomentumModel(nn.Module):
    """A copy of the student that follows it slowly, and the features of the pairs it saw last.

    Parameters that are not trained are shared with the student, not copied; running statistics of batch norm are the
    student's at each step, since this model, always in evaluation mode, gathers none.

    Args:
        encoder: The student's; the copy reads the same caches.
        config: How slow, how large a queue, how much distillation.
        seen: Training pairs; the queue holds half of them at most, so that no pair meets itself.

    Raises:
        ConfigError: The student has several features an image.
    """

    def __init__(self, encoder: BatchEncoder, config: MomentumConfig, seen: int) -> None:
        super().__init__()
        student = encoder.model
        require_one_vector(student, "a momentum model", "leave the momentum section out, as BLIP-2 does")
        frozen = {id(parameter): parameter for parameter in student.parameters() if not parameter.requires_grad}
        self.model: DualEncoder = copy.deepcopy(student, frozen)
        self.model.requires_grad_(False)
        # `deepcopy` leaves the shared parameters those of the student; they are frozen there too.
        self.encoder = encoder.of_copy(self.model)
        self.config = config
        size = min(config.queue_size, seen // 2)
        self.queue = FeatureQueue(size, student.embed_dim) if size else None
        self._student = (student,)  # in a tuple: not a submodule of this one

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a teacher has no dropout."""
        return super().train(False)

    @torch.no_grad()
    def follow(self) -> None:
        """Move towards the student: decay * own + (1 - decay) * student."""
        for own, theirs in zip(self.model.parameters(), self._student[0].parameters(), strict=True):
            if own is not theirs:
                own.lerp_(theirs, 1.0 - self.config.decay)

    def alpha(self, encoded: EncodedBatch) -> float:
        """Weight of the soft targets at this step."""
        ramp = self.config.ramp_epochs * encoded.info.steps_per_epoch
        share = min(1.0, encoded.info.step / ramp) if ramp else 1.0
        return self.config.distillation * share

    @torch.no_grad()
    def encode(self, encoded: EncodedBatch) -> MomentumFeatures:
        """Encode the batch."""
        for own, theirs in zip(self.model.buffers(), self._student[0].buffers(), strict=True):
            own.copy_(theirs)
        image_states, images = self.encoder.encode_images(encoded.local, encoded.info.epoch)
        text = self.encoder.encode_texts(encoded.local)
        return MomentumFeatures(image_states, gather(images), gather(text.features))

    @torch.no_grad()
    def token_logits(
        self, image_states: Tensor, masked_ids: Tensor, mask: Tensor, images: Tensor, predicted: Tensor
    ) -> Tensor:
        """Vocabulary logits of the predicted tokens [P, V].

        Args:
            image_states: Of some images [n, N, W].
            masked_ids: Tokens of each row [R, L].
            mask: 1 for tokens, 0 for padding [R, L].
            images: Image of each row [R], below n.
            predicted: Where the P tokens are, bool [R, L].
        """
        assert isinstance(self.model, FusionModel), "the student fuses, so its copy does"
        states = self.model.text_states(masked_ids, mask)
        keys_values = self.model.image_keys_values(image_states)
        return self.model.predict_tokens(self.model.fuse(states, mask, keys_values, images), predicted)

    def itc_loss(
        self,
        encoded: EncodedBatch,
        features: MomentumFeatures,
        relations: BatchRelations,
        smoothing: float,
        contrast: Contrast,
        regulation: Regulation | None = None,
    ) -> Tensor:
        """ALBEF's ITC, a scalar: this rank's features against the momentum features of the batch and of the queue.

        Targets are ``(1 - alpha) * positives + alpha * momentum model``, with the student's temperature and bias; the
        sigmoid loss has labels of single cells in place of target rows. An entry of the queue that is the same image or
        caption is a positive. A regulation knows no weights for a queue; there must be none.
        """
        halves = []
        queued = None
        if self.queue is not None and len(self.queue):
            queued = self.queue.positives(encoded.batch.image_id, encoded.batch.caption_key)
            queued = queued.where(queued.columns >= encoded.size)
        for side in SIDES:
            direction, keys = self._candidates(encoded, features, side, relations, queued, smoothing, contrast)
            half = contrast.loss(
                (encoded.image_features if side == "i2t" else encoded.text_features)[encoded.own],  # [b, E]
                keys,
                direction,
                regulation=None if regulation is None else of_rows(regulation, encoded.own, transposed=side == "t2i"),
            )
            halves.append(half)
        return torch.stack(halves).mean()

    def remember(self, encoded: EncodedBatch, features: MomentumFeatures) -> None:
        """Put the batch's momentum features into the queue; what is not a number (a broken image) becomes 0."""
        if self.queue is not None:
            images, texts = features.images.nan_to_num(), features.texts.nan_to_num()
            self.queue.enqueue(images, texts, encoded.batch.image_id, encoded.batch.caption_key)

    def tensors(self) -> dict[str, Tensor]:
        """What is this model's own, in any shape: parameters that moved away from the student's, and the queue."""
        students = {id(parameter) for parameter in self._student[0].parameters()}
        own: dict[str, Tensor] = {n: value for n, value in self.named_parameters() if id(value) not in students}
        return own if self.queue is None else own | {f"queue.{name}": v for name, v in self.queue.tensors().items()}

    def _candidates(
        self,
        encoded: EncodedBatch,
        features: MomentumFeatures,
        side: Side,
        relations: BatchRelations,
        queued: PairSet | None,
        smoothing: float,
        contrast: Contrast,
    ) -> tuple[Direction, Tensor]:
        """Targets and weights of this rank's anchors of one side, and their candidates [B + F, E].

        Positives among the F entries of the queue are given; None where it has none yet.
        """
        images_ask = side == "i2t"
        anchors, keys = (features.images, features.texts) if images_ask else (features.texts, features.images)  # [B, E]
        positives, weights = relations.positives(side), relations.weights(side)
        if self.queue is not None and queued is not None:
            keys = torch.cat([keys, self.queue.features("texts" if images_ask else "images")])  # [B + F, E]
            positives = PairSet.union(positives.widened(len(keys)), queued)
            weights = weights.widened(len(keys))
        rows = (encoded.own.start, encoded.own.stop)
        positives, alpha = positives.of_rows(*rows), self.alpha(encoded)
        soft = contrast.soft(anchors[encoded.own], keys, positives, alpha) if alpha else None
        return Direction(positives, smoothing, soft, weights.of_rows(*rows)), keys
