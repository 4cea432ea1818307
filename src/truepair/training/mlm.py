"""The language part of a step (MLM): hidden words of a caption are guessed from the rest and the image."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor

from truepair.errors import ConfigError
from truepair.models.fusion import ImageKeysValues
from truepair.objectives.counter import keyed_uniform, sample_keys
from truepair.objectives.masking import IGNORED, MaskingConfig, TokenMasker, mlm_loss
from truepair.relations.pairs import PairSet
from truepair.training.momentum import MomentumModel
from truepair.training.step_view import StepView
from truepair.training.towers import Towers

_CHOICE = 7  # stream of the draw that chooses the rows; the masker uses the first three


@dataclass(frozen=True, kw_only=True)
class MlmConfig:
    """Masked language modelling.

    Attributes:
        weight: Weight in the sum of the losses.
        start_epoch: First epoch with MLM.
        row_share: Share of the pairs whose caption is masked and read in a step; the others are, in other epochs.
        masking: Which tokens are hidden.
    """

    weight: float = 1.0
    start_epoch: int = 0
    row_share: float = 1.0
    masking: MaskingConfig = field(default_factory=MaskingConfig)

    def __post_init__(self) -> None:
        if not 0.0 < self.row_share <= 1.0:
            raise ConfigError(f"objectives.mlm.row_share is {self.row_share}; give a number above 0, up to 1")

    def due(self, epoch: int) -> bool:
        """Whether it is trained in an epoch."""
        return self.weight > 0 and epoch >= self.start_epoch


class Teacher(NamedTuple):
    """A momentum model that gives MLM soft targets.

    Attributes:
        model: The momentum model.
        image_states: Of some images, by this model [n, N, W].
        alpha: Weight of its soft targets.
    """

    model: MomentumModel
    image_states: Tensor  # [n, N, W]
    alpha: float


@dataclass(frozen=True)
class MaskedRows:
    """The captions that MLM of this rank reads, each with an image and with hidden words.

    Attributes:
        images: Image of each row, counted from this rank's first [R].
        ids: Tokens, some of them hidden [R, L].
        mask: 1 for tokens, 0 for padding [R, L].
        labels: What is hidden; IGNORED elsewhere [R, L].
        weight: What a hidden word weighs in the loss: the ranks over the hidden words of all ranks.
    """

    images: Tensor  # [R]
    ids: Tensor  # [R, L]
    mask: Tensor  # [R, L]
    labels: Tensor  # [R, L]
    weight: float

    @classmethod
    def of(cls, view: StepView, masker: TokenMasker, converted: PairSet, config: MlmConfig, seed: int) -> Self:
        """Hide words of this rank's pairs, and of undeclared pairs taken for matches whose image is one of this rank's.

        Args:
            view: The batch.
            masker: Hides tokens.
            converted: Further (image row, text row) matches, over all ranks; each row gets a mask of its own.
            config: Which rows are read.
            seed: Seed of the run.
        """
        images, texts, keys, counted = _rows(view, converted, config.row_share, seed)
        mask = view.batch.attention_mask[texts]  # [R, L]
        ids, labels = masker(view.batch.input_ids[texts], mask, keys)
        labels = labels.masked_fill(~counted[:, None], IGNORED)
        return cls(images, ids, mask, labels, _weight((labels != IGNORED).sum(), view))

    def of_images(self, start: int, stop: int) -> Self:
        """The rows of some images, counted from the first of these."""
        here = (self.images >= start) & (self.images < stop)
        return replace(
            self,
            images=self.images[here] - start,
            ids=self.ids[here],
            mask=self.mask[here],
            labels=self.labels[here],
        )


def mlm_part(rows: MaskedRows, towers: Towers, keys_values: ImageKeysValues, teacher: Teacher | None) -> Tensor:
    """MLM of the rows of some images.

    Args:
        rows: What is read.
        towers: The student's.
        keys_values: Of these images.
        teacher: Gives soft targets.

    Returns:
        A scalar; summed over the parts, and meaned over the ranks, it is the loss of the whole batch.
    """
    predicted = rows.labels != IGNORED  # [R, L]
    states = towers.text_states(rows.ids, rows.mask)
    fused = towers.model.fuse(states, rows.mask, keys_values, rows.images)  # [R, L, D]
    logits = towers.model.predict_tokens(fused, predicted)  # [P, V]
    soft = (
        None
        if teacher is None
        else teacher.model.token_logits(teacher.image_states, rows.ids, rows.mask, rows.images, predicted)
    )
    loss = mlm_loss(logits, rows.labels[predicted], soft, 0.0 if teacher is None else teacher.alpha)
    return loss * (len(logits) * rows.weight)


def _rows(view: StepView, converted: PairSet, share: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image (counted from this rank's first), text (counted over all ranks) and randomness key of each row [R].

    And whether it counts: where no row was chosen, one is read all the same, so that all ranks differentiate alike.
    """
    own = torch.arange(view.own.start, view.own.stop, device=view.image_features.device)
    more = converted.where((converted.rows >= view.own.start) & (converted.rows < view.own.stop))
    epoch, caption_id, image_id = view.moment.epoch, view.batch.caption_id, view.batch.image_id
    keys = torch.cat(
        [
            sample_keys(seed, epoch, caption_id[own]),
            sample_keys(seed, epoch, caption_id[more.columns], image_id[more.rows]),
        ]
    )
    images, texts = torch.cat([own, more.rows]) - view.own.start, torch.cat([own, more.columns])
    counted = torch.ones_like(keys, dtype=torch.bool)
    if share < 1.0:
        counted = keyed_uniform(keys, 1, stream=_CHOICE).squeeze(1) < share
    read = torch.nonzero(counted).squeeze(1) if counted.any() else torch.zeros_like(keys[:1])  # [R]
    return images[read], texts[read], keys[read], counted[read]


def _weight(words: Tensor, view: StepView) -> float:
    """What each of this rank's hidden words weighs."""
    if view.alone:
        return 1.0 / max(int(words), 1)
    words = words.float()
    dist.all_reduce(words)
    return dist.get_world_size() / max(float(words), 1.0)
