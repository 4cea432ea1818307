"""One pre-training step: a batch in, the weighted sum of ITC, ITM and MLM out."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from truepair.data.collate import PairBatch
from truepair.data.randomness import stable_hash
from truepair.models.albef import AlbefModel
from truepair.objectives.bounds import information_bounds
from truepair.objectives.masking import TokenMasker
from truepair.objectives.matching import HardNegatives, MatchingPairs, hardest_negatives, matching_pairs
from truepair.objectives.regulation import Regulation
from truepair.relations.batch import BatchRelations
from truepair.relations.identity import same_pair
from truepair.relations.pairs import PairSet
from truepair.sampling.ranks import Ranks
from truepair.training.fused import FusedRows
from truepair.training.itc import ItcConfig, itc_loss
from truepair.training.itm import ItmConfig
from truepair.training.mlm import MaskedRows, MlmConfig
from truepair.training.moment import Moment
from truepair.training.momentum import MomentumModel, MomentumView
from truepair.training.regulating import weight_figures
from truepair.training.step_parts import StepParts
from truepair.training.step_state import load_step, save_step
from truepair.training.step_view import StepView
from truepair.training.towers import Towers
from truepair.training.training_step import StepOutput, TrainingStep


@dataclass(frozen=True, kw_only=True)
class ObjectivesConfig:
    """What a step trains.

    Attributes:
        itc: The contrastive loss.
        itm: Image-text matching.
        mlm: Masked language modelling.
    """

    itc: ItcConfig = field(default_factory=ItcConfig)
    itm: ItmConfig = field(default_factory=ItmConfig)
    mlm: MlmConfig = field(default_factory=MlmConfig)


class PretrainStep(TrainingStep):
    """Losses of one batch of pairs.

    Over several ranks, ITC contrasts the pairs of all, negatives are chosen among all, and each rank reads the pairs of
    its own images: losses and gradients are those of one process with the whole batch.

    Args:
        model: The model to train.
        towers: Image and text states of a batch, computed or from a cache of frozen ones.
        masker: Hides tokens for MLM; None without MLM.
        config: Which objectives, and how much of each.
        parts: Relations, judge, regulation, momentum model.
        seed: Seed of the run.
    """

    model: AlbefModel

    def __init__(
        self,
        model: AlbefModel,
        towers: Towers,
        masker: TokenMasker | None,
        config: ObjectivesConfig,
        parts: StepParts,
        *,
        seed: int,
    ) -> None:
        super().__init__(model)
        self.towers = towers
        self.masker = masker
        self.config = config
        self.parts = parts
        self.momentum = parts.momentum  # a submodule, so that it moves to the device with the step
        self.seed = seed
        self.micro_batch = towers.parts.size

    def forward(self, batch: PairBatch, moment: Moment) -> StepOutput:
        """Compute the losses of a batch: ``itc``, and ``itm`` and ``mlm`` once they started.

        Args:
            batch: This rank's pairs.
            moment: Where the run stands.
        """
        parts = self.parts
        pixels = parts.miner is not None and parts.miner.config.discriminator.view == "batch"
        view = StepView.of(batch, self.towers, moment, Ranks.current().rank, pixels=pixels)
        seen = None if self.momentum is None else (self.momentum, self.momentum.see(view))
        relations, pairs, converted = self._relate(view, None if seen is None else seen[1])
        regulation = None if parts.regulator is None else parts.regulator.regulation(view)
        losses = {"itc": itc_loss(view, relations, self.config.itc, regulation=regulation, momentum=seen)}
        losses |= self._fused_losses(view, pairs, converted, seen)
        if seen is not None:
            seen[0].remember(view, seen[1])
        weights = {"itc": self.config.itc.weight, "itm": self.config.itm.weight, "mlm": self.config.mlm.weight}
        total = sum(
            (weights[name] * loss for name, loss in losses.items()), torch.zeros((), device=view.image_features.device)
        )
        with torch.autocast(total.device.type, enabled=False):
            figures = self._figures(view, regulation) if moment.logged else {}
        return StepOutput(
            {"loss": total, **losses, "temperature": view.temperature, **figures},
            view.image_features[view.own].detach(),
            view.text_features[view.own].detach(),
        )

    def after_update(self, moment: Moment) -> None:
        """Bring the temperature back into its range, and let the momentum model follow."""
        self.model.clamp_temperature_()
        if self.momentum is not None:
            self.momentum.follow()

    def epoch_figures(self, epoch: int) -> dict[str, float]:
        """What the detectors found and con-D decided in the epoch."""
        figures, miner, found = self.parts.counts.take(), self.parts.miner, self.parts.found
        if miner is not None:
            figures |= miner.figures()
        if found is not None:
            figures |= {f"ecm/{name}": value for name, value in found.figures().items()}
            found.reset()
        return figures

    def begin(self) -> None:
        """Empty the ledger: a run that died before its first checkpoint may have left verdicts."""
        if self.parts.ledger is not None:
            self.parts.ledger.load_state_dict({"parts": 0})

    def save_state(self, folder: Path) -> None:
        """Write momentum model, queue, verdicts, calibration and the place in the ledger."""
        save_step(folder, self.parts, Ranks.current().rank)

    def load_state(self, folder: Path) -> None:
        """Read what :meth:`save_state` wrote."""
        load_step(folder, self.parts, Ranks.current().rank)

    def close(self) -> None:
        """Bring the ledger to disk."""
        if self.parts.ledger is not None:
            self.parts.ledger.flush()

    def _relate(
        self, view: StepView, seen: MomentumView | None
    ) -> tuple[BatchRelations, MatchingPairs | None, PairSet]:
        """Relations of the batch, the pairs that ITM reads if it is due, and the undeclared matches that MLM reads."""
        parts, miner = self.parts, self.parts.miner
        judged = None if miner is None or miner.config.judge == "hardest" else miner.judge_all(view)
        relations = parts.relator.relate(
            view,
            guide=None if parts.guide is None else parts.guide.features(view),
            momentum=None if seen is None else (seen.images, seen.texts),
            judged=judged,
        )
        parts.counts.add({f"relations/{name}": float(count) for name, count in relations.counts().items()})
        if parts.ledger is not None:
            relations.record(parts.ledger, view.moment.epoch)
        if miner is not None and judged is not None and miner.config.judge == "all":
            relations = miner.connect_all(view, judged, relations, parts.ledger)
        nothing = PairSet.empty(view.size, view.size, device=view.image_features.device)
        extra = parts.relator.extra_matches(relations, view, self.seed) if self._fuses(view) else nothing
        if miner is not None and miner.config.judge == "hardest":
            candidates = self._candidates(view, relations)
            relations, pairs, converted, asked = miner.connect_hardest(view, candidates, relations, parts.ledger)
            if parts.found is not None:
                parts.found.add(view.batch, converted, asked)
            if "mlm" not in miner.config.places:
                converted = nothing
            return relations, _with_matches(pairs, extra), PairSet.union(converted, extra) if len(extra) else converted
        if parts.found is not None:
            parts.found.add(view.batch, relations.matches())
        itm = self.config.itm.due(view.moment.epoch)
        return relations, matching_pairs(self._candidates(view, relations), extra) if itm else None, extra

    def _fuses(self, view: StepView) -> bool:
        """Whether ITM or MLM has started."""
        return self.config.itm.due(view.moment.epoch) or self.config.mlm.due(view.moment.epoch)

    def _candidates(self, view: StepView, relations: BatchRelations) -> HardNegatives:
        """The hardest negatives of each image and each text."""
        matching = self.config.itm.matching(view.moment.progress)
        return hardest_negatives(view.logits, relations.allowed(), matching, self._generator(view))

    def _fused_losses(
        self,
        view: StepView,
        pairs: MatchingPairs | None,
        converted: PairSet,
        seen: tuple[MomentumModel, MomentumView] | None,
    ) -> dict[str, Tensor]:
        """ITM and MLM, as far as they have started."""
        if not self._fuses(view):
            return {}
        mlm, epoch = self.config.mlm, view.moment.epoch
        with_itm, with_mlm = self.config.itm.due(epoch), mlm.due(epoch)
        masked = None
        if with_mlm:
            assert self.masker is not None, "MLM has a weight, so there is one"
            masked = MaskedRows.of(view, self.masker, converted, mlm, self.seed)
        return FusedRows(view, self.towers, pairs if with_itm else None, masked, seen).losses()

    @torch.no_grad()
    def _figures(self, view: StepView, regulation: Regulation | None) -> dict[str, Tensor]:
        """Bounds on mutual information, and how SRCL's weights are spread."""
        if view.size < 2:
            return {}
        truth = self.parts.truth
        hidden = None if truth is None else truth.hidden_matches(view.batch)  # [B, B]
        suspects = None if hidden is None else PairSet.from_dense(hidden)
        bounds = information_bounds(
            view.image_features, view.text_features, view.temperature, regulation=regulation, suspects=suspects
        )
        figures = {"mi_positive": bounds.positive, "mi_negative": bounds.negative, "mi_bound": bounds.bound}
        if suspects is not None and len(suspects):
            figures["mi_false_negative"] = bounds.suspects
        if hidden is not None:
            figures["hardest_is_false"] = hardest_is_false(view.similarity, hidden, view.batch)
        tensors = {name: torch.tensor(value) for name, value in figures.items()}
        if regulation is None:
            return tensors
        weights, histogram = weight_figures(regulation, view, hidden)
        self.parts.counts.add({f"srcl_weights/{number:02d}": count for number, count in enumerate(histogram)})
        return tensors | weights

    def _generator(self, view: StepView) -> torch.Generator:
        """Randomness of the choice of negatives: the same on all ranks, another for each batch."""
        seed = stable_hash(self.seed, view.moment.step, int(view.batch.index[0]), "negatives")
        return torch.Generator(view.image_features.device).manual_seed(seed)


def hardest_is_false(similarity: Tensor, hidden: Tensor, batch: PairBatch) -> float:
    """How often the hardest undeclared negative of an anchor is a false one, mean over both directions.

    Args:
        similarity: Of all images and texts [B, B].
        hidden: The false negatives, bool [B, B].
        batch: The pairs; those of one image or one caption text are declared matches.
    """
    undeclared = similarity.masked_fill(same_pair(batch.image_id, batch.caption_key), -torch.inf)
    hits = [hidden.gather(side, undeclared.argmax(dim=side, keepdim=True)) for side in (0, 1)]
    return float(torch.stack([hit.float().mean() for hit in hits]).mean())


def _with_matches(pairs: MatchingPairs, extra: PairSet) -> MatchingPairs:
    """ITM rows, and further matches behind them."""
    return MatchingPairs(
        images=torch.cat([pairs.images, extra.rows]),
        texts=torch.cat([pairs.texts, extra.columns]),
        labels=torch.cat([pairs.labels, torch.ones_like(extra.rows)]),
        valid=torch.cat([pairs.valid, torch.ones_like(extra.rows, dtype=torch.bool)]),
    )
