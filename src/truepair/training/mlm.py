"""The language part of a step (MLM): hidden words of a caption are guessed from the rest and the image."""

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from truepair.errors import ConfigError
from truepair.models.fusion import ImageKeysValues
from truepair.objectives.counter import keyed_uniform, sample_keys
from truepair.objectives.masking import IGNORED, MaskingConfig, TokenMasker, mlm_loss
from truepair.relations.pairs import PairSet
from truepair.training.momentum import MomentumModel, MomentumView
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


def mlm_part(
    view: StepView,
    towers: Towers,
    masker: TokenMasker,
    converted: PairSet,
    keys_values: ImageKeysValues,
    config: MlmConfig,
    *,
    seed: int,
    momentum: tuple[MomentumModel, MomentumView] | None = None,
) -> Tensor:
    """MLM of this rank's pairs, and of undeclared pairs taken for matches whose image is one of this rank's.

    Args:
        view: The batch.
        towers: The student's.
        masker: Hides tokens.
        converted: Further (image row, text row) matches, over all ranks; each row gets a mask of its own.
        keys_values: Of this rank's images.
        config: Which rows are read.
        seed: Seed of the run.
        momentum: A teacher of soft targets.

    Returns:
        A scalar; the mean over the ranks is the loss of the whole batch.
    """
    images, texts, keys, counted = _rows(view, converted, config.row_share, seed)
    mask = view.batch.attention_mask[texts]  # [R, L]
    masked_ids, labels = masker(view.batch.input_ids[texts], mask, keys)
    predicted = (labels != IGNORED) & counted[:, None]  # [R, L]
    states = towers.text_states(masked_ids, mask)
    fused = towers.model.fuse(states, mask, keys_values, images)  # [R, L, D]
    logits = towers.model.predict_tokens(fused, predicted)  # [P, V]
    teacher, alpha = _teacher(view, momentum, masked_ids, mask, images, predicted)
    loss = mlm_loss(logits, labels[predicted], teacher, alpha)
    return loss if view.alone else loss * _share(len(logits), loss.device)


def _teacher(
    view: StepView,
    momentum: tuple[MomentumModel, MomentumView] | None,
    masked_ids: Tensor,
    mask: Tensor,
    images: Tensor,
    predicted: Tensor,
) -> tuple[Tensor | None, float]:
    """Soft targets of the momentum model [P, V], and their weight."""
    if momentum is None or not momentum[0].alpha(view):
        return None, 0.0
    model, seen = momentum
    return model.token_logits(seen, masked_ids, mask, images, predicted), model.alpha(view)


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


def _share(count: int, device: torch.device) -> float:
    """This rank's share of the predicted tokens of all ranks, times the number of ranks."""
    tokens = torch.tensor(float(count), device=device)
    dist.all_reduce(tokens)
    return count / max(float(tokens), 1.0) * dist.get_world_size()
