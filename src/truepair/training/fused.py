"""What the fusion encoder reads of a batch, for ITM and MLM."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from truepair.objectives.matching import MatchingPairs
from truepair.training.itm import itm_part
from truepair.training.mlm import MaskedRows, Teacher, mlm_part
from truepair.training.momentum import MomentumModel, MomentumView
from truepair.training.step_view import ImagePart, StepView
from truepair.training.towers import Towers


@dataclass(frozen=True)
class FusedRows:
    """The rows that ITM and MLM read, part by part of this rank's images.

    Attributes:
        view: The batch.
        towers: The student's.
        pairs: What ITM reads, over all ranks; None: no ITM.
        masked: What MLM reads on this rank; None: no MLM.
        momentum: A teacher of soft targets for MLM.
    """

    view: StepView
    towers: Towers
    pairs: MatchingPairs | None
    masked: MaskedRows | None
    momentum: tuple[MomentumModel, MomentumView] | None

    def losses(self) -> dict[str, Tensor]:
        """``itm`` and ``mlm``, those that are asked for; the mean over the ranks is that of the whole batch."""
        total: dict[str, Tensor] = {}
        parts = self.towers.parts
        for number, (rows, states) in enumerate(
            zip(parts.slices(len(self.view.local)), self.view.image_states, strict=True)
        ):
            for name, loss in parts.call(partial(self._of_part, number, rows), states).items():
                total[name] = total[name] + loss if name in total else loss
        return total

    def _of_part(self, number: int, rows: slice, states: Tensor) -> dict[str, Tensor]:
        """What the images of some rows contribute; their keys and values are computed once for the rows of both."""
        keys_values = self.towers.model.image_keys_values(states)
        losses = {}
        # The backward pass goes from the end: ITM has many rows to free, MLM makes the gradients of the vocabulary.
        masked = None if self.masked is None else self.masked.of_images(rows.start, rows.stop)
        if masked is not None and len(masked.images):
            losses["mlm"] = mlm_part(masked, self.towers, keys_values, self._teacher(number))
        if self.pairs is not None:
            first = self.view.own.start
            part = ImagePart(slice(first + rows.start, first + rows.stop), keys_values)
            losses["itm"] = itm_part(self.view, self.towers.model, self.pairs, part)
        return losses

    def _teacher(self, number: int) -> Teacher | None:
        if self.momentum is None or not self.momentum[0].alpha(self.view):
            return None
        model, seen = self.momentum
        return Teacher(model, seen.image_states[number], model.alpha(self.view))
