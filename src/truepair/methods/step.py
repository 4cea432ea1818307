"""One pre-training step, top to bottom: encode, relations, ITC, pairs for ITM, fused losses, figures."""

import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from truepair.data.pairs import PairBatch
from truepair.engine.distributed.sharding import gathered, spread_like
from truepair.engine.logs.measure import EpochCounts
from truepair.engine.loop.step import StepInfo, StepOutput
from truepair.errors import CheckpointError, ConfigError
from truepair.evaluation.truth import ConversionTruth, PairTruth
from truepair.methods.ecm import ConnectionMiner
from truepair.methods.encode import ImagePart, StepView, Towers
from truepair.methods.momentum import MomentumModel, MomentumView
from truepair.methods.reference import ReferenceModel
from truepair.methods.rules import Relator
from truepair.methods.srcl import Regulator, of_rows, weight_figures
from truepair.methods.towers import TowerStep
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.fusion_encoder import ImageKeysValues
from truepair.objectives.bounds import information_bounds
from truepair.objectives.contrastive import Direction, contrastive_loss
from truepair.objectives.itm import (
    HardNegatives,
    MatchingConfig,
    MatchingPairs,
    Sampling,
    hardest_negatives,
    itm_loss,
    matching_pairs,
)
from truepair.objectives.mlm import IGNORED, MaskingConfig, TokenMasker, mlm_loss
from truepair.objectives.momentum import consistency_loss
from truepair.objectives.schedules import Schedule
from truepair.objectives.srcl import Regulation
from truepair.randomness import keyed_uniform, sample_keys, stable_hash
from truepair.relations.batch import BatchRelations
from truepair.relations.ledger import Ledger
from truepair.relations.pairs import PairSet, same_pair
from truepair.sampling.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """What a step is composed of beside the student; the parts that a recipe does not ask for are None.

    Attributes:
        relator: Applies the rules on who is a match.
        miner: Connection mining by a discriminator.
        regulator: SRCL's weights.
        momentum: ALBEF's momentum model.
        guide: The dual encoder that the detector "guide" asks.
        ledger: Keeps the verdicts.
        truth: What is known about undeclared pairs, for figures only.
        found: Counts how many of the matches that the miner or a rule finds are right, where the truth is known.
        counts: What is counted over an epoch.
    """

    relator: Relator
    miner: ConnectionMiner | None = None
    regulator: Regulator | None = None
    momentum: MomentumModel | None = None
    guide: ReferenceModel | None = None
    ledger: Ledger | None = None
    truth: PairTruth | None = None
    found: ConversionTruth | None = None
    counts: EpochCounts = field(default_factory=EpochCounts)


@dataclass(frozen=True, kw_only=True)
class ItcConfig:
    """The contrastive loss.

    Attributes:
        weight: Weight in the sum of the losses.
        smoothing: Share of the target that is spread evenly (S-ITC); MAFA: 0.5.
        smoothing_start_epoch: First epoch with smoothing; MAFA: 1.
        key_gradient: Let the gradient through the candidates as well; GRIT-VLP and MAFA do not.
        consistency: Weight of GRIT-VLP's consistency loss; there 0.2.
    """

    weight: float = 1.0
    smoothing: float = 0.0
    smoothing_start_epoch: int = 0
    key_gradient: bool = True
    consistency: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.smoothing <= 1.0:
            raise ConfigError(f"objectives.itc.smoothing is {self.smoothing}; give a number from 0 to 1")


def itc_loss(
    view: StepView,
    relations: BatchRelations,
    config: ItcConfig,
    *,
    regulation: Regulation | None = None,
    momentum: tuple[MomentumModel, MomentumView] | None = None,
) -> Tensor:
    """ITC of this rank's anchors against the pairs of all ranks.

    Args:
        view: Features of the batch.
        relations: Who is a match, who is left out or weighs less.
        config: Smoothing, gradient of the keys, consistency.
        regulation: SRCL's weights.
        momentum: Candidates, queue and soft targets of a momentum model, in place of the student's own candidates.

    Returns:
        A scalar; the mean over the ranks is the loss of the whole batch.
    """
    smoothing = config.smoothing if view.info.epoch >= config.smoothing_start_epoch else 0.0
    if momentum is not None:
        model, seen = momentum
        loss = model.itc_loss(view, seen, relations, smoothing, regulation)
    else:
        loss = _in_batch(view, relations, smoothing, config.key_gradient, regulation)
    if config.consistency:
        consistency = consistency_loss(view.image_features, view.text_features, view.temperature).loss
        loss = loss + config.consistency * consistency
    return loss


def _in_batch(
    view: StepView, relations: BatchRelations, smoothing: float, key_gradient: bool, regulation: Regulation | None
) -> Tensor:
    images, texts = view.image_features, view.text_features
    rows = Direction.of_relations(relations, "i2t", smoothing)
    columns = rows.transposed() if relations.symmetric else Direction.of_relations(relations, "t2i", smoothing)
    if view.alone:
        return contrastive_loss(
            images,
            texts,
            view.temperature,
            rows=rows,
            columns=columns,
            regulation=regulation,
            key_gradient=key_gradient,
        ).loss
    halves = []
    for anchors, candidates, direction, transposed in ((images, texts, rows, False), (texts, images, columns, True)):
        half = contrastive_loss(
            anchors[view.own],
            candidates,
            view.temperature,
            rows=direction.of_rows(view.own.start, view.own.stop),
            regulation=None if regulation is None else of_rows(regulation, view.own, transposed=transposed),
            symmetric=False,
            key_gradient=key_gradient,
        )
        halves.append(half.loss)
    return torch.stack(halves).mean()


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
    epoch, caption_id, image_id = view.info.epoch, view.batch.caption_id, view.batch.image_id
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


_MOMENTUM = "momentum.safetensors"

_STATE = "parts.json"


def save_step(folder: Path, parts: StepParts, rank: int) -> None:
    """Write the state of a step's parts.

    Args:
        folder: Of the checkpoint.
        parts: Of the step.
        rank: This process; verdicts are each rank's own, the rest is the same on all and written by the first.
    """
    if parts.miner is not None and parts.miner.memory is not None:
        save_file(parts.miner.memory.memory.state_dict(), folder / f"verdicts-r{rank:05d}.safetensors")
    momentum = None if parts.momentum is None else gathered(parts.momentum.tensors(), keep=rank == 0)
    if rank > 0:
        return
    state: dict[str, Any] = {"counts": parts.counts.read()}
    if parts.ledger is not None:
        state["ledger"] = parts.ledger.state_dict()
    if parts.miner is not None:
        state["ecm"] = parts.miner.counts.read()
    if parts.found is not None:
        state["found"] = parts.found.counts
    if parts.regulator is not None:
        state["srcl"] = parts.regulator.state()
    (folder / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    if momentum is not None:
        save_file({name: tensor.contiguous() for name, tensor in momentum.items()}, folder / _MOMENTUM)


def load_step(folder: Path, parts: StepParts, rank: int) -> None:
    """Read what :func:`save_step` wrote. A run that goes on with more ranks starts their verdicts empty.

    Raises:
        CheckpointError: The checkpoint is of a run with other parts.
    """
    verdicts = folder / f"verdicts-r{rank:05d}.safetensors"
    if parts.miner is not None and parts.miner.memory is not None and verdicts.exists():
        parts.miner.memory.memory.load_state_dict(load_file(verdicts))
    state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    try:
        parts.counts.load(state["counts"])
        if parts.ledger is not None:
            parts.ledger.load_state_dict(state["ledger"])
        if parts.miner is not None:
            parts.miner.counts.load(state["ecm"])
        if parts.found is not None:
            parts.found.counts = dict(state["found"])
        if parts.regulator is not None:
            parts.regulator.load_state(state["srcl"])
    except KeyError as error:
        raise CheckpointError(f"{folder} is of a run without {error}; give another run folder") from error
    if parts.momentum is not None:
        _copy(load_file(folder / _MOMENTUM), parts.momentum.tensors(), folder)


@torch.no_grad()
def _copy(saved: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], folder: Path) -> None:
    if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in tensors.items()}:
        raise CheckpointError(f"{folder} holds another momentum model or queue; give another run folder")
    for name, tensor in tensors.items():
        tensor.copy_(spread_like(tensor, saved[name]))


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


class PretrainStep(TowerStep):
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

    def forward(self, batch: PairBatch, info: StepInfo) -> StepOutput:
        """Compute the losses of a batch: ``itc``, and ``itm`` and ``mlm`` once they started.

        Args:
            batch: This rank's pairs.
            info: Where the run stands.
        """
        parts = self.parts
        pixels = parts.miner is not None and parts.miner.config.discriminator.view == "batch"
        view = StepView.of(batch, self.towers, info, Ranks.current().rank, pixels=pixels)
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
            figures = self._figures(view, regulation) if info.logged else {}
        return StepOutput(
            {"loss": total, **losses, "temperature": view.temperature, **figures},
            view.image_features[view.own].detach(),
            view.text_features[view.own].detach(),
        )

    def after_update(self, info: StepInfo) -> None:
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
            relations.record(parts.ledger, view.info.epoch)
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
        itm = self.config.itm.due(view.info.epoch)
        return relations, matching_pairs(self._candidates(view, relations), extra) if itm else None, extra

    def _fuses(self, view: StepView) -> bool:
        """Whether ITM or MLM has started."""
        return self.config.itm.due(view.info.epoch) or self.config.mlm.due(view.info.epoch)

    def _candidates(self, view: StepView, relations: BatchRelations) -> HardNegatives:
        """The hardest negatives of each image and each text."""
        matching = self.config.itm.matching(view.info.progress)
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
        mlm, epoch = self.config.mlm, view.info.epoch
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
        seed = stable_hash(self.seed, view.info.step, int(view.batch.index[0]), "negatives")
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
