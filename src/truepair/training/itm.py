"""The matching part of a step (ITM): the fusion encoder reads pairs, and says which belong together."""

from dataclasses import dataclass

from torch import Tensor

from truepair.errors import ConfigError
from truepair.models.albef import AlbefModel
from truepair.objectives.matching import MatchingConfig, MatchingPairs, Sampling, itm_loss
from truepair.objectives.schedules import Schedule
from truepair.training.step_view import ImagePart, StepView


@dataclass(frozen=True, kw_only=True)
class ItmConfig:
    """Image-text matching.

    Attributes:
        weight: Weight in the sum of the losses.
        start_epoch: First epoch with ITM; until then the fusion encoder rests, and a step takes a fraction of the time.
        sampling: "top1" takes the most similar negative (GRIT-VLP, MAFA), "multinomial" draws by similarity (ALBEF).
        hard_fraction: Share of anchors whose negative is hard, the others get a random one; a number, or a schedule
            over the run. From random weights ITM does not start on top-1 negatives alone: begin at 0.5, or warm up with
            ITC (``start_epoch``).
    """

    weight: float = 1.0
    start_epoch: int = 0
    sampling: Sampling = "top1"
    hard_fraction: float | Schedule = 1.0

    def __post_init__(self) -> None:
        ends = self.hard_fraction
        for value in (ends.start, ends.end) if isinstance(ends, Schedule) else (ends,):
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"objectives.itm.hard_fraction is {value}; give numbers from 0 to 1")

    def due(self, epoch: int) -> bool:
        """Whether it is trained in an epoch."""
        return self.weight > 0 and epoch >= self.start_epoch

    def matching(self, progress: float) -> MatchingConfig:
        """How negatives are drawn after a share of the run."""
        share = self.hard_fraction
        return MatchingConfig(self.sampling, share.at(progress) if isinstance(share, Schedule) else share)


def itm_part(view: StepView, model: AlbefModel, pairs: MatchingPairs, part: ImagePart) -> Tensor:
    """ITM of the pairs whose image is one of some.

    Args:
        view: The batch.
        model: The student.
        pairs: What ITM reads, over all ranks.
        part: Images of this rank.

    Returns:
        A scalar; summed over the parts, and meaned over the ranks, it is the loss of the whole batch.
    """
    images, texts, labels = (column[pairs.valid] for column in (pairs.images, pairs.texts, pairs.labels))  # [V]
    here = (images >= part.rows.start) & (images < part.rows.stop)
    all_rows = len(images)
    images, texts, labels = images[here], texts[here], labels[here]  # [R]
    fused = model.fuse(
        view.text_states[texts],
        view.batch.attention_mask[texts],
        part.keys_values,
        images - part.rows.start,
        cls_only=True,
    )  # [R, 1, D]
    logits = model.match(fused, view.image_features[images], view.text_features[texts])  # [R, 2]
    share = len(images) / max(all_rows, 1) * (view.size // len(view.local))
    return itm_loss(logits, labels) * share
