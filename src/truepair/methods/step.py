"""One training step, top to bottom: encode, relations, ITC, pairs for ITM, fused losses (ITM, MLM or ITG), figures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from truepair.data.pairs import PairBatch
from truepair.devices import sent, uncompiled
from truepair.engine.distributed.gathering import sum_over_ranks
from truepair.engine.distributed.sharding import gathered, spread_like
from truepair.engine.logs.measure import EpochCounts
from truepair.engine.loop.step import StepInfo, StepOutput
from truepair.errors import CheckpointError, ConfigError
from truepair.evaluation.truth import ConversionCounter, Truth
from truepair.methods.chance import ChanceWatch, loss_of_constant
from truepair.methods.contrast import Contrast
from truepair.methods.ecm import Ecm
from truepair.methods.encode import BatchEncoder, EncodedBatch, full_precision
from truepair.methods.frozen import FrozenModel
from truepair.methods.held_out import HeldOut
from truepair.methods.momentum import MomentumFeatures, MomentumModel
from truepair.methods.rules import RuleSet
from truepair.methods.srcl import SrclWeights, of_rows, weight_figures
from truepair.methods.towers import TowerStep
from truepair.models.dual.base import DualEncoder, FusionModel, ImageKeysValues
from truepair.objectives.bounds import information_bounds
from truepair.objectives.contrastive import Direction, loss_at_chance
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
from truepair.relations.detectors import Signal
from truepair.relations.ledger import Ledger
from truepair.relations.pairs import SIDES, PairSet, same_pair
from truepair.relations.similarity import as_products
from truepair.sampling.ranks import Ranks
from truepair.settings import Natural, Share, SomeShare, Weight, check_settings

_ANCHORS = 256  # most anchors of a batch that a logged step's figures are means over

_MLM_ROWS = 7  # stream of the draw that chooses the rows of MLM; the masker uses the first three


@dataclass(frozen=True, kw_only=True)
class ItcConfig:
    """The contrastive loss.

    Attributes:
        loss: "softmax" asks which of the candidates matches (CLIP, ALBEF), "sigmoid" asks of each cell whether it does
            (SigLIP).
        bias_init: Where the bias of the sigmoid loss starts, for a model that has none of its own; SigLIP: -10.
        weight: Weight in the sum of the losses.
        smoothing: Share of the target that is spread evenly (S-ITC); MAFA: 0.5.
        smoothing_start_epoch: First epoch with smoothing; MAFA: 1.
        key_gradient: Let the gradient through the candidates as well; GRIT-VLP and MAFA do not.
        consistency: Weight of GRIT-VLP's consistency loss; there 0.2. Not with "sigmoid".
        chance_steps: Steps after the warm-up from which on a line is said if the loss has not left chance, which is the
            logarithm of the number of candidates; a shorter run is judged at its end.
    """

    loss: Literal["softmax", "sigmoid"] = "softmax"
    bias_init: float = -10.0
    weight: Weight = 1.0
    smoothing: Share = 0.0
    smoothing_start_epoch: Natural = 0
    key_gradient: bool = True
    consistency: Weight = 0.0
    chance_steps: Natural = 200

    def __post_init__(self) -> None:
        check_settings(self, "objectives.itc")
        if self.loss not in ("softmax", "sigmoid"):
            raise ConfigError(f"objectives.itc.loss is {self.loss!r}; give 'softmax' or 'sigmoid'")
        if self.loss == "sigmoid" and self.consistency:
            raise ConfigError(
                "objectives.itc.consistency draws the two directions to each other, and to a sigmoid they are one; "
                "set it to 0, or objectives.itc.loss to softmax"
            )


@dataclass(frozen=True, kw_only=True)
class ItmConfig:
    """Image-text matching: the fusion encoder reads pairs, and says which belong together.

    Attributes:
        weight: Weight in the sum of the losses.
        start_epoch: First epoch with ITM; until then the fusion encoder rests, and a step takes a fraction of the time.
        sampling: "top1" takes the most similar negative (GRIT-VLP, MAFA), "multinomial" draws by similarity (ALBEF).
        hard_fraction: Share of anchors whose negative is hard, the others get a random one; a number, or a schedule
            over the run. From random weights ITM does not start on top-1 negatives alone: begin at 0.5, or warm up with
            ITC (``start_epoch``).
    """

    weight: Weight = 1.0
    start_epoch: Natural = 0
    sampling: Sampling = "top1"
    hard_fraction: Share | Schedule = 1.0

    def __post_init__(self) -> None:
        check_settings(self, "objectives.itm")
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


@dataclass(frozen=True, kw_only=True)
class MlmConfig:
    """Masked language modelling: hidden words of a caption are guessed from the rest and the image.

    Attributes:
        weight: Weight in the sum of the losses.
        start_epoch: First epoch with MLM.
        row_share: Share of the pairs whose caption is masked and read in a step; the others are, in other epochs.
        masking: Which tokens are hidden.
    """

    weight: Weight = 1.0
    start_epoch: Natural = 0
    row_share: SomeShare = 1.0
    masking: MaskingConfig = field(default_factory=MaskingConfig)

    def __post_init__(self) -> None:
        check_settings(self, "objectives.mlm")

    def due(self, epoch: int) -> bool:
        """Whether it is trained in an epoch."""
        return self.weight > 0 and epoch >= self.start_epoch


@dataclass(frozen=True, kw_only=True)
class ItgConfig:
    """Image-grounded text generation: each word of a caption is guessed from the image and the words before it.

    It takes the place of MLM in BLIP-2.

    Attributes:
        weight: Weight in the sum of the losses; 0 for models that write no captions, 1 in BLIP-2.
        start_epoch: First epoch with ITG.
        row_share: Share of the pairs whose caption is read in a step; the others are, in other epochs.
        smoothing: Share of the target that is spread over the vocabulary; in BLIP-2's program: 0.1.
    """

    weight: Weight = 0.0
    start_epoch: Natural = 0
    row_share: SomeShare = 1.0
    smoothing: Share = 0.1

    def __post_init__(self) -> None:
        check_settings(self, "objectives.itg")

    def due(self, epoch: int) -> bool:
        """Whether it is trained in an epoch."""
        return self.weight > 0 and epoch >= self.start_epoch


@dataclass(frozen=True, kw_only=True)
class ObjectivesConfig:
    """What a step trains.

    Attributes:
        itc: The contrastive loss.
        itm: Image-text matching; for models that fuse.
        mlm: Masked language modelling; for models that fuse.
        itg: Image-grounded text generation; for models that write captions (BLIP-2).
    """

    itc: ItcConfig = field(default_factory=ItcConfig)
    itm: ItmConfig = field(default_factory=ItmConfig)
    mlm: MlmConfig = field(default_factory=MlmConfig)
    itg: ItgConfig = field(default_factory=ItgConfig)

    @property
    def fused(self) -> dict[str, "ItmConfig | MlmConfig | ItgConfig"]:
        """Those that have a weight and read image and text together, by name."""
        parts: dict[str, ItmConfig | MlmConfig | ItgConfig] = {"itm": self.itm, "mlm": self.mlm, "itg": self.itg}
        return {name: part for name, part in parts.items() if part.weight > 0}


Momentum = tuple[MomentumModel, MomentumFeatures]
"""The momentum model, and the batch as it sees it."""


class PretrainStep(TowerStep):
    """Losses of one batch of pairs.

    Over several ranks, ITC contrasts the pairs of all, negatives are chosen among all, and each rank reads the pairs of
    its own images: losses and gradients are those of one process with the whole batch.

    Args:
        model: The model to train: any dual encoder; ITM and MLM need one that fuses, ITG one that writes captions.
        encoder: Encodes batches with it, or reads caches of frozen towers.
        objectives: Which losses, and how much of each.
        rules: Who is a match although nobody declared it, and what is done about it.
        masker: Hides tokens for MLM; None without MLM.
        ecm: A judge that is asked about pairs of the batch.
        srcl: SRCL's weights of the negatives.
        momentum: ALBEF's momentum model.
        guide: The frozen dual encoder that the detectors "guide" and "weight" ask.
        ledger: Keeps the verdicts.
        truth: What is known about undeclared pairs, for figures only.
        conversions: Counts how many of the new matches are right, where the truth is known.
        chance: Says that ITC has not left chance; None for not looking.
        held_out: Pairs that a learned hardness is rewarded by where there is no MLM.
        seed: Seed of the run.

    Raises:
        ConfigError: ITM, MLM or ITG is asked for, and the model cannot.
    """

    model: DualEncoder

    def __init__(
        self,
        model: DualEncoder,
        encoder: BatchEncoder,
        objectives: ObjectivesConfig,
        rules: RuleSet,
        *,
        masker: TokenMasker | None = None,
        ecm: Ecm | None = None,
        srcl: SrclWeights | None = None,
        momentum: MomentumModel | None = None,
        guide: FrozenModel | None = None,
        ledger: Ledger | None = None,
        truth: Truth | None = None,
        conversions: ConversionCounter | None = None,
        chance: ChanceWatch | None = None,
        held_out: HeldOut | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        if objectives.itg.weight > 0 and not (isinstance(model, FusionModel) and model.writes_captions):
            raise ConfigError(f"{model.kind} writes no captions, as ITG does; set objectives.itg.weight to 0")
        if not isinstance(model, FusionModel) and (objectives.itm.weight > 0 or objectives.mlm.weight > 0):
            raise ConfigError(
                f"{model.kind} reads no image and text together, as ITM and MLM do; set "
                "objectives.itm.weight and objectives.mlm.weight to 0"
            )
        self.encoder = encoder
        self.objectives = objectives
        self.own_bias: nn.Parameter | None = None
        if objectives.itc.loss == "sigmoid" and model.bias is None:
            self.own_bias = nn.Parameter(model.temperature.detach().new_tensor(objectives.itc.bias_init))
        self.rules = rules
        self.masker = masker
        self.ecm = ecm
        self.srcl = srcl
        self.momentum = momentum  # a submodule, so that it moves to the device with the step
        self.guide = guide
        self.ledger = ledger
        self.truth = truth
        self.conversions = conversions
        self.chance = chance
        self.held_out = held_out
        self.seed = seed
        self.counts = EpochCounts()
        self.micro_batch = encoder.parts.size

    def forward(self, batch: PairBatch, info: StepInfo) -> StepOutput:
        """Compute the losses of a batch: ``itc``, and ``itm``, ``mlm`` and ``itg`` once they started.

        Args:
            batch: This rank's pairs.
            info: Where the run stands.

        Raises:
            ConfigError: The batch is of one pair, over all ranks, and a loss compares pairs.
        """
        if info.measures:
            return StepOutput({"loss": self._reward_loss(batch, info)})
        pixels = self.ecm is not None and self.ecm.config.judge.view == "batch"
        encoded = EncodedBatch.of(batch, self.encoder, info, pixels=pixels)
        self._require_others(encoded.size)
        momentum = None if self.momentum is None else (self.momentum, self.momentum.encode(encoded))

        relations, itm_pairs, read_matches = uncompiled(self._decide)(encoded, momentum)

        regulation = None if self.srcl is None else self.srcl.regulation(encoded)
        contrast = Contrast(encoded.temperature, self.bias)
        losses = {"itc": itc(encoded, relations, self.objectives.itc, contrast, regulation, momentum)}
        losses |= self._fused_losses(encoded, itm_pairs, read_matches, momentum)
        if momentum is not None:
            momentum[0].remember(encoded, momentum[1])

        weights = {name: getattr(self.objectives, name).weight for name in losses}
        loss = sum((weights[name] * part for name, part in losses.items()), torch.zeros((), device=encoded.device))
        with torch.autocast(encoded.device.type, enabled=False):
            figures = self._figures(encoded, relations, contrast, regulation, momentum) if info.logged else {}
        learnt = {"temperature": contrast.temperature}
        if contrast.bias is not None:
            learnt["bias"] = contrast.bias.detach().clone()  # a parameter moves before it is logged
        return StepOutput(
            {"loss": loss, **losses, **learnt, **figures},
            encoded.image_features[encoded.own].detach(),
            encoded.text_features[encoded.own].detach(),
            None if self.ecm is None else self.ecm.probable(),
        )

    def reward_loss(self, epoch: int) -> str:
        """The MLM loss, once it is trained (FALCON), or ITC of held-out pairs.

        A loss of the batch that compares its pairs would reward how easy they are to tell apart.
        """
        if self.held_out is not None:
            return f"ITC of {self.held_out.count} held-out pairs"
        return "the MLM loss" if self.objectives.mlm.due(epoch) else ""

    def _reward_loss(self, batch: PairBatch, info: StepInfo) -> Tensor:
        """ITC of the held-out pairs; or MLM of this rank's own pairs with the words that the step hides; a scalar."""
        if self.held_out is not None:
            local = self.held_out.batch.to(batch.input_ids.device)
            encoded = EncodedBatch.of(local, self.held_out.encoder, info)
            contrast = Contrast(encoded.temperature, self.bias)
            nothing_found = BatchRelations(encoded.size)
            return _itc_in_batch(encoded, nothing_found, 0.0, True, contrast, None)
        assert self.masker is not None, "MLM has a weight, so there is one"
        encoded = EncodedBatch.of(batch, self.encoder, info)
        nothing = PairSet.empty(encoded.size, encoded.size)
        masked = CaptionRows.masked(encoded, self.masker, nothing, self.objectives.mlm, self.seed)
        return self._read(encoded, None, masked, None, None)["mlm"]

    @property
    def bias(self) -> Tensor | None:
        """What the sigmoid loss adds to the logits, a scalar with gradient: the model's, or else the step's own.

        None where the loss is a softmax.
        """
        if self.objectives.itc.loss == "softmax":
            return None
        return self.model.bias if self.own_bias is None else self.own_bias

    def after_update(self, info: StepInfo) -> None:
        """Bring the temperature back into its range, and let the momentum model follow."""
        self.model.clamp_temperature_()
        if self.momentum is not None:
            self.momentum.follow()

    def _require_others(self, pairs: int) -> None:
        """Refuse a batch in which no pair meets another.

        Raises:
            ConfigError: It has one pair.
        """
        queued = self.momentum is not None and self.momentum.queue is not None
        refusal = alone_in_its_batch(self.objectives, pairs, queued=queued)
        if refusal is not None:
            raise ConfigError(refusal)

    def _decide(
        self, encoded: EncodedBatch, momentum: Momentum | None
    ) -> tuple[BatchRelations, MatchingPairs | None, PairSet]:
        """What the host says of the batch: its relations, the rows of ITM, and the further ones of MLM or ITG."""
        return self._pairs(encoded, self._relations(encoded, momentum))

    def _relations(self, encoded: EncodedBatch, momentum: Momentum | None) -> BatchRelations:
        """What the rules find in the batch; each signal is computed if a rule reads it."""
        signals: dict[str, Any] = {}
        if self.guide is not None:
            signals["guide"] = partial(_precise, self.guide.features, encoded)
        if momentum is not None:
            signals["momentum"] = partial(_precise, lambda _: (momentum[1].images, momentum[1].texts), encoded)
        if self.ecm is not None and self.ecm.config.ask != "hardest":
            signals["judged"] = partial(self.ecm.judge_all, encoded)
        relations = self.rules.relate(encoded, signals)
        self.counts.add({f"relations/{name}": float(count) for name, count in relations.counts().items()})
        if self.ledger is not None:
            self.rules.record(self.ledger, encoded)
        return relations

    def _pairs(
        self, encoded: EncodedBatch, relations: BatchRelations
    ) -> tuple[BatchRelations, MatchingPairs | None, PairSet]:
        """The rows of ITM if it is due, and the undeclared matches that MLM or ITG read; asks of the hardest."""
        due = {name for name, part in self.objectives.fused.items() if part.due(encoded.info.epoch)}
        extra = PairSet.empty(encoded.size, encoded.size)
        if due:
            extra = self.rules.extra_matches(relations, encoded, self.seed)
        if self.ecm is not None and self.ecm.config.ask == "hardest":
            found = self.ecm.judge_hardest(encoded, self._candidates(encoded, relations), relations)
            if self.conversions is not None:
                self.conversions.add(encoded.batch, found.matches, found.judged)
            read_matches = PairSet.union(found.mlm, extra) if len(extra) else found.mlm
            return found.relations, found.itm.adding(extra) if "itm" in due else None, read_matches
        if self.conversions is not None:
            self.conversions.add(encoded.batch, relations.matches())
        itm_pairs = matching_pairs(self._candidates(encoded, relations), extra) if "itm" in due else None
        return relations, itm_pairs, extra

    def _candidates(self, encoded: EncodedBatch, relations: BatchRelations) -> HardNegatives:
        """The hardest negatives of each image and each text, on the host; those drawn are the same on all ranks."""
        seed = stable_hash(self.seed, encoded.info.step, int(encoded.batch.index[0]), "negatives")
        generator = torch.Generator(encoded.device).manual_seed(seed)
        matching = self.objectives.itm.matching(encoded.info.progress)
        allowed = relations.allowed(encoded.device)
        return hardest_negatives(encoded.logits, allowed, matching, generator).on_host()

    def _fused_losses(
        self, encoded: EncodedBatch, pairs: MatchingPairs | None, matches: PairSet, momentum: Momentum | None
    ) -> dict[str, Tensor]:
        """ITM, MLM and ITG, as far as they have started, part by part of this rank's images.

        The mean over the ranks is that of the whole batch.
        """
        masked = None
        if self.objectives.mlm.due(encoded.info.epoch):
            assert self.masker is not None, "MLM has a weight, so there is one"
            masked = uncompiled(CaptionRows.masked)(encoded, self.masker, matches, self.objectives.mlm, self.seed)
        written = None
        if self.objectives.itg.due(encoded.info.epoch):
            written = uncompiled(CaptionRows.written)(encoded, matches, self.objectives.itg, self.seed)
        if pairs is None and masked is None and written is None:
            return {}
        return self._read(encoded, pairs, masked, written, momentum)

    def _read(
        self,
        encoded: EncodedBatch,
        pairs: MatchingPairs | None,
        masked: "CaptionRows | None",
        written: "CaptionRows | None",
        momentum: Momentum | None,
    ) -> dict[str, Tensor]:
        """What the fusion encoder reads, part by part of this rank's images."""
        losses: dict[str, Tensor] = {}
        parts = self.encoder.parts
        slices = parts.slices(len(encoded.local))
        for number, (rows, states) in enumerate(zip(slices, encoded.image_states, strict=True)):
            fuse = partial(self._fused_part, encoded, pairs, masked, written, momentum, number, rows)
            for name, loss in parts.call(fuse, states).items():
                losses[name] = losses[name] + loss if name in losses else loss
        return losses

    def _fused_part(
        self,
        encoded: EncodedBatch,
        pairs: MatchingPairs | None,
        masked: "CaptionRows | None",
        written: "CaptionRows | None",
        momentum: Momentum | None,
        number: int,
        rows: slice,
        states: Tensor,
    ) -> dict[str, Tensor]:
        """What some images contribute [n, N, W]; their keys and values are computed once for the rows of all losses."""
        assert isinstance(self.model, FusionModel), "checked when the step was built"
        keys_values = encoded.image_keys_values[number]
        if keys_values is None:
            keys_values = self.model.image_keys_values(states)
        losses = {}
        # The backward pass goes from the end: ITM has many rows to free, MLM makes the gradients of the vocabulary.
        read = None if masked is None else masked.of_images(rows)
        if read is not None and len(read.images):
            losses["mlm"] = mlm(read, self.model, keys_values, encoded, momentum, number)
        read = None if written is None else written.of_images(rows)
        if read is not None and len(read.images):
            losses["itg"] = itg(read, self.model, keys_values, self.objectives.itg.smoothing)
        if pairs is not None:
            first = encoded.own.start
            here = slice(first + rows.start, first + rows.stop)
            losses["itm"] = itm(encoded, self.model, pairs, here, keys_values)
        return losses

    @torch.no_grad()
    def _figures(
        self,
        encoded: EncodedBatch,
        relations: BatchRelations,
        contrast: Contrast,
        regulation: Regulation | None,
        momentum: Momentum | None,
    ) -> dict[str, Tensor]:
        """ITC at chance, bounds on mutual information, how often the hardest is a false negative, SRCL's weights.

        Of a large batch, some anchors stand for all: figures of all of them cost as much as the loss.
        The bounds belong to the softmax: a sigmoid's logits are no densities over the candidates, so it has none.
        """
        if encoded.size < 2:
            return {}
        anchors = _some_of(encoded.size)  # A of them
        hidden = None if self.truth is None else self.truth.hidden_matches(encoded.batch, images=anchors)  # [A, B]
        figures = _information(encoded, regulation, hidden, anchors) if self.objectives.itc.loss == "softmax" else {}
        if self.truth is not None:
            figures["hardest_is_false"] = hardest_is_false(encoded, self.truth, anchors)
        tensors = {name: torch.tensor(value) for name, value in figures.items()}
        if self.chance is not None:
            at_chance = itc_at_chance(encoded, relations, self.objectives.itc, contrast, regulation, momentum)
            tensors |= {} if at_chance is None else {"itc_chance": at_chance}
        if regulation is None:
            return tensors
        weights, histogram = weight_figures(regulation, encoded, hidden, anchors)
        self.counts.add({f"srcl_weights/{number:02d}": count for number, count in enumerate(histogram)})
        return tensors | weights

    def epoch_figures(self, epoch: int) -> dict[str, float]:
        """What the rules found and the judge decided in the epoch."""
        figures = self.counts.take()
        if self.ecm is not None:
            figures |= self.ecm.figures()
        if self.conversions is not None:
            figures |= {f"ecm/{name}": value for name, value in self.conversions.figures().items()}
            self.conversions.reset()
        return figures

    def remark(self, step: int, total_steps: int, values: Mapping[str, Any]) -> str | None:
        """A line where ITC has not left chance."""
        return None if self.chance is None else self.chance.look(step, total_steps, values)

    def joins(self) -> dict[int, str]:
        """Epochs from which on ITM, MLM or ITG is trained as well: until then the fusion encoder rests."""
        parts = self.objectives.fused
        return {
            epoch: " + ".join(name.upper() for name, part in parts.items() if part.start_epoch == epoch)
            for epoch in sorted({part.start_epoch for part in parts.values()})
        }

    def begin(self) -> None:
        """Empty the ledger: a run that died before its first checkpoint may have left verdicts."""
        if self.ledger is not None:
            self.ledger.clear()

    def close(self) -> None:
        """Bring the ledger to disk."""
        if self.ledger is not None:
            self.ledger.flush()

    def save_state(self, folder: Path) -> None:
        """Write momentum model, queue, verdicts, calibration and the place in the ledger.

        Verdicts are each rank's own, the rest is the same on all and written by the first.
        """
        rank = Ranks.current().rank
        if self.ecm is not None and self.ecm.memory is not None:
            save_file(self.ecm.memory.memory.state_dict(), folder / f"verdicts-r{rank:05d}.safetensors")
        momentum = None if self.momentum is None else gathered(self.momentum.tensors(), keep=rank == 0)
        if rank > 0:
            return
        state: dict[str, Any] = {"counts": self.counts.read()}
        if self.ledger is not None:
            state["ledger"] = self.ledger.state_dict()
        if self.ecm is not None:
            state["ecm"] = self.ecm.counts.read()
        if self.conversions is not None:
            state["found"] = self.conversions.counts
        if self.srcl is not None:
            state["srcl"] = self.srcl.state()
        if self.own_bias is not None:
            state["bias"] = self.own_bias.item()
        (folder / "parts.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        if momentum is not None:
            save_file({name: value.contiguous() for name, value in momentum.items()}, folder / "momentum.safetensors")

    def load_state(self, folder: Path) -> None:
        """Read what :meth:`save_state` wrote. A run that goes on with more ranks starts their verdicts empty.

        Raises:
            CheckpointError: The checkpoint is of a run with other parts.
        """
        verdicts = folder / f"verdicts-r{Ranks.current().rank:05d}.safetensors"
        if self.ecm is not None and self.ecm.memory is not None and verdicts.exists():
            self.ecm.memory.memory.load_state_dict(load_file(verdicts))
        state: dict[str, Any] = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
        try:
            self.counts.load(state["counts"])
            if self.ledger is not None:
                self.ledger.load_state_dict(state["ledger"])
            if self.ecm is not None:
                self.ecm.counts.load(state["ecm"])
            if self.conversions is not None:
                self.conversions.counts = dict(state["found"])
            if self.srcl is not None:
                self.srcl.load_state(state["srcl"])
            if self.own_bias is not None:
                self.own_bias.data.fill_(state["bias"])
        except KeyError as error:
            raise CheckpointError(f"{folder} is of a run without {error}; give another run folder") from error
        if self.momentum is not None:
            _copy(load_file(folder / "momentum.safetensors"), self.momentum.tensors(), folder)


def _some_of(pairs: int) -> slice:
    """The anchors that figures of a batch are means over: every k-th pair, so that they are at most ``_ANCHORS``."""
    return slice(0, pairs, -(-pairs // _ANCHORS))


def _information(
    encoded: EncodedBatch, regulation: Regulation | None, hidden: Tensor | None, anchors: slice
) -> dict[str, float]:
    """Bounds on mutual information; ``hidden`` says which cells are false negatives, if anybody knows [A, B]."""
    suspects = None
    if hidden is not None:
        rows, columns = hidden.nonzero(as_tuple=True)  # [P]
        shape = (encoded.size, encoded.size)
        suspects = PairSet(rows * anchors.step, columns, torch.ones_like(rows, dtype=torch.float32), shape)
    images, texts = as_products(encoded.image_features, encoded.text_features)
    bounds = information_bounds(
        images, texts, encoded.temperature, regulation=regulation, suspects=suspects, anchors=anchors
    )
    figures = {"mi_positive": bounds.positive, "mi_negative": bounds.negative, "mi_bound": bounds.bound}
    if suspects is not None and len(suspects):
        figures["mi_false_negative"] = bounds.suspects
    return figures


def itc(
    encoded: EncodedBatch,
    relations: BatchRelations,
    config: ItcConfig,
    contrast: Contrast,
    regulation: Regulation | None = None,
    momentum: Momentum | None = None,
) -> Tensor:
    """ITC of this rank's anchors against the pairs of all ranks.

    Args:
        encoded: Features of the batch.
        relations: Who is a match, who is left out or weighs less.
        config: Smoothing, gradient of the keys, consistency.
        contrast: The loss: softmax, or sigmoid with its bias.
        regulation: SRCL's weights.
        momentum: Candidates, queue and soft targets of a momentum model, in place of the student's own candidates.

    Returns:
        A scalar; the mean over the ranks is the loss of the whole batch.
    """
    smoothing = config.smoothing if encoded.info.epoch >= config.smoothing_start_epoch else 0.0
    if momentum is not None:
        loss = momentum[0].itc_loss(encoded, momentum[1], relations, smoothing, contrast, regulation)
    else:
        loss = _itc_in_batch(encoded, relations, smoothing, config.key_gradient, contrast, regulation)
    if config.consistency:
        loss = loss + config.consistency * _consistency(encoded)
    return loss


def _consistency(encoded: EncodedBatch) -> Tensor:
    """GRIT-VLP's consistency loss, a scalar."""
    images, texts = encoded.image_features, encoded.text_features
    if images.dim() == 2:
        return consistency_loss(images, texts, encoded.temperature).loss
    by_image, by_text = encoded.logits.softmax(dim=1), encoded.logits.T.softmax(dim=1)  # [B, B] each
    contrast = Contrast(encoded.temperature)
    halves = [
        contrast.loss(anchors, candidates, Direction(soft=soft), key_gradient=False)
        for anchors, candidates, soft in ((images, texts, by_text), (texts, images, by_image))
    ]
    return torch.stack(halves).mean()


def itc_at_chance(
    encoded: EncodedBatch,
    relations: BatchRelations,
    config: ItcConfig,
    contrast: Contrast,
    regulation: Regulation | None = None,
    momentum: Momentum | None = None,
) -> Tensor | None:
    """What :func:`itc` is where all pairs have one score, a scalar: to the softmax ln of the effective candidates.

    None for the sigmoid loss with a momentum model, whose labels hang on the bias.
    """
    if contrast.bias is None and momentum is None:
        shape, own = (len(encoded.local), encoded.size), encoded.own
        sides = [Direction.of_relations(relations, side).of_rows(own.start, own.stop) for side in SIDES]
        return torch.stack([loss_at_chance(side, shape, encoded.device) for side in sides]).mean()
    empty = torch.zeros_like(encoded.image_features), torch.zeros_like(encoded.text_features)
    alike = replace(encoded, image_features=empty[0], text_features=empty[1])
    config = replace(config, consistency=0.0)
    if contrast.bias is None:
        return itc(alike, relations, config, contrast, regulation, momentum)
    if momentum is not None:
        return None
    bias = contrast.bias.detach()
    return loss_of_constant(
        lambda logit: itc(alike, relations, config, replace(contrast, bias=torch.full_like(bias, logit)), regulation)
    )


def alone_in_its_batch(objectives: ObjectivesConfig, pairs: int, *, queued: bool) -> str | None:
    """What is wrong with a batch of one pair; None where nothing is.

    Args:
        objectives: What is trained.
        pairs: Of a batch, over all ranks.
        queued: Whether ITC has a queue of earlier pairs as candidates.
    """
    if pairs > 1:
        return None
    if objectives.itc.weight > 0 and not queued:
        lost = "ITC tells a pair from the others of its batch"
    elif objectives.itm.weight > 0:
        lost = "ITM takes its negatives from the batch"
    else:
        return None
    return (
        f"a batch has one pair, over all processes: {lost}, and there are none. Set loop.batch_size to 2 or more "
        "(loop.accumulate adds no pair to a batch, loop.micro_batch splits a larger one); in a loop of your own, leave "
        "a last batch of one out"
    )


def _itc_in_batch(
    encoded: EncodedBatch,
    relations: BatchRelations,
    smoothing: float,
    key_gradient: bool,
    contrast: Contrast,
    regulation: Regulation | None,
) -> Tensor:
    """ITC with the student's own features as candidates."""
    images, texts = encoded.image_features, encoded.text_features
    rows = Direction.of_relations(relations, "i2t", smoothing)
    columns = None if relations.symmetric else Direction.of_relations(relations, "t2i", smoothing)
    if encoded.alone and images.dim() == 2:  # with queries, each direction has similarities of its own
        return contrast.loss(
            images, texts, rows, columns, regulation=regulation, symmetric=True, key_gradient=key_gradient
        )
    columns = columns or rows.transposed()
    halves = []
    for anchors, candidates, direction, transposed in ((images, texts, rows, False), (texts, images, columns, True)):
        half = contrast.loss(
            anchors[encoded.own],
            candidates,
            direction.of_rows(encoded.own.start, encoded.own.stop),
            regulation=None if regulation is None else of_rows(regulation, encoded.own, transposed=transposed),
            key_gradient=key_gradient,
        )
        halves.append(half)
    return torch.stack(halves).mean()


def itm(
    encoded: EncodedBatch, model: FusionModel, pairs: MatchingPairs, here: slice, keys_values: ImageKeysValues
) -> Tensor:
    """ITM of the pairs whose image is one of some.

    Args:
        encoded: The batch.
        model: The student.
        pairs: What ITM reads, over all ranks.
        here: Rows of these images among the pairs of all ranks.
        keys_values: Of these images.

    Returns:
        A scalar; summed over the parts, and meaned over the ranks, it is the loss of the whole batch.
    """
    counted = pairs.counted
    rows = counted.of_images(here)  # R of them
    images, texts, labels = (sent(part, encoded.device) for part in (rows.images + here.start, rows.texts, rows.labels))
    fused = model.fuse(
        encoded.text_states[texts], encoded.batch.attention_mask[texts], keys_values, rows.images, cls_only=True
    )  # [R, 1, D]
    logits = model.match(fused, encoded.image_features[images], encoded.text_features[texts])  # [R, 2]
    share = len(rows) / max(len(counted), 1) * (encoded.size // len(encoded.local))
    return itm_loss(logits, labels) * share


@dataclass(frozen=True)
class CaptionRows:
    """The captions that MLM or ITG of this rank reads, each with an image and with words to guess.

    Attributes:
        images: Image of each row, counted from this rank's first, on the host [R].
        ids: Tokens, for MLM some of them hidden [R, L].
        mask: 1 for tokens, 0 for padding [R, L].
        labels: What is to be guessed at a place, to MLM what is hidden there, to ITG what comes next; IGNORED where
            nothing is [R, L].
        guessed: Where something is, bool on the host [R, L].
        weight: What a guessed word weighs in the loss: the ranks over the guessed words of all ranks.
    """

    images: Tensor  # [R]
    ids: Tensor  # [R, L]
    mask: Tensor  # [R, L]
    labels: Tensor  # [R, L]
    guessed: Tensor  # [R, L]
    weight: Weight

    @classmethod
    def masked(cls, encoded: EncodedBatch, masker: TokenMasker, matches: PairSet, config: MlmConfig, seed: int) -> Self:
        """Hide words of this rank's pairs, and of undeclared matches whose image is one of this rank's.

        Args:
            encoded: The batch.
            masker: Hides tokens.
            matches: Further (image row, text row) matches, over all ranks; each row gets a mask of its own [B, B].
            config: Which rows are read.
            seed: Seed of the run.
        """
        images, texts, keys, counted = _caption_rows(encoded, matches, config.row_share, seed)
        mask = encoded.batch.attention_mask[texts]  # [R, L]
        ids, labels = masker(encoded.batch.input_ids[texts], mask, keys)
        return cls._guessing(encoded, images, ids, mask, labels.masked_fill(~counted[:, None], IGNORED))

    @classmethod
    def written(cls, encoded: EncodedBatch, matches: PairSet, config: ItgConfig, seed: int) -> Self:
        """The captions of this rank's pairs, and of undeclared matches whose image is one of this rank's, as written.

        Args:
            encoded: The batch.
            matches: Further (image row, text row) matches, over all ranks [B, B].
            config: Which rows are read.
            seed: Seed of the run.
        """
        images, texts, _, counted = _caption_rows(encoded, matches, config.row_share, seed)
        ids, mask = encoded.batch.input_ids[texts], encoded.batch.attention_mask[texts]  # [R, L] each
        follows = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1).bool()  # [R, L]: a token comes next
        labels = ids.roll(-1, dims=1).masked_fill(~(follows & counted[:, None]), IGNORED)
        return cls._guessing(encoded, images, ids, mask, labels)

    @classmethod
    def _guessing(cls, encoded: EncodedBatch, images: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> Self:
        """The rows with their labels; a device is waited for once, to say where something is to be guessed."""
        guessed = (labels != IGNORED).cpu()
        return cls(images, ids, mask, labels, guessed, _word_weight(int(guessed.sum()), encoded))

    @property
    def targets(self) -> Tensor:
        """What is to be guessed, place by place [P]."""
        places = self.guessed.flatten().nonzero()[:, 0]
        return self.labels.flatten().index_select(0, sent(places, self.labels.device))

    def of_images(self, rows: slice) -> Self:
        """The rows of some images, counted from the first of these."""
        here = ((self.images >= rows.start) & (self.images < rows.stop)).nonzero()[:, 0]
        there = sent(here, self.ids.device)
        columns = {name: getattr(self, name)[there] for name in ("ids", "mask", "labels")}
        return replace(self, images=self.images[here] - rows.start, guessed=self.guessed[here], **columns)


def itg(rows: CaptionRows, model: FusionModel, keys_values: ImageKeysValues, smoothing: float) -> Tensor:
    """ITG of the rows of some images.

    Args:
        rows: What is read.
        model: The student.
        keys_values: Of these images.
        smoothing: Share of the target that is spread over the vocabulary.

    Returns:
        A scalar; summed over the parts, and meaned over the ranks, it is the loss of the whole batch.
    """
    logits = model.predict_next(rows.ids, rows.mask, keys_values, rows.images, rows.guessed)  # [P, V]
    with torch.autocast(logits.device.type, enabled=False):
        wide = full_precision(logits)
        return F.cross_entropy(wide, rows.targets, reduction="sum", label_smoothing=smoothing) * rows.weight


def mlm(
    rows: CaptionRows,
    model: FusionModel,
    keys_values: ImageKeysValues,
    encoded: EncodedBatch,
    momentum: Momentum | None,
    part: int,
) -> Tensor:
    """MLM of the rows of some images.

    Args:
        rows: What is read.
        model: The student.
        keys_values: Of these images.
        encoded: The batch.
        momentum: Gives soft targets, once it has a weight.
        part: Number of these images among the parts of the batch.

    Returns:
        A scalar; summed over the parts, and meaned over the ranks, it is the loss of the whole batch.
    """
    states = model.text_states(rows.ids, rows.mask)
    fused = model.fuse(states, rows.mask, keys_values, rows.images)  # [R, L, D]
    logits = model.predict_tokens(fused, rows.guessed)  # [P, V]
    soft, alpha = None, 0.0 if momentum is None else momentum[0].alpha(encoded)
    if momentum is not None and alpha:
        image_states = momentum[1].image_states[part]
        soft = momentum[0].token_logits(image_states, rows.ids, rows.mask, rows.images, rows.guessed)
    return mlm_loss(logits, rows.targets, soft, alpha) * (len(logits) * rows.weight)


def _caption_rows(
    encoded: EncodedBatch, matches: PairSet, share: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image (counted from this rank's first, on the host), text (counted over all ranks) and randomness key [R].

    And whether a row counts. Where no row was chosen, one is read all the same, so that all ranks differentiate alike.
    """
    own = torch.arange(encoded.own.start, encoded.own.stop)
    more = matches.where((matches.rows >= encoded.own.start) & (matches.rows < encoded.own.stop))
    epoch, caption_id, image_id = encoded.info.epoch, encoded.batch.caption_id, encoded.batch.image_id
    keys = torch.cat(
        [
            sample_keys(seed, epoch, caption_id[own]),
            sample_keys(seed, epoch, caption_id[more.columns], image_id[more.rows]),
        ]
    )
    images, texts = torch.cat([own, more.rows]) - encoded.own.start, torch.cat([own, more.columns])
    counted = torch.ones_like(keys, dtype=torch.bool)
    if share < 1.0:
        counted = keyed_uniform(keys, 1, stream=_MLM_ROWS).squeeze(1) < share
    read = torch.nonzero(counted).squeeze(1) if counted.any() else torch.zeros_like(keys[:1])  # [R]
    texts, keys, counted = (sent(part[read], encoded.device) for part in (texts, keys, counted))
    return images[read], texts, keys, counted


def _word_weight(words: int, encoded: EncodedBatch) -> float:
    """What each of this rank's hidden words weighs."""
    if encoded.alone:
        return 1.0 / max(words, 1)
    return dist.get_world_size() / max(sum_over_ranks({"words": float(words)})["words"], 1.0)


def hardest_is_false(encoded: EncodedBatch, truth: Truth, anchors: slice) -> float:
    """How often the hardest undeclared negative of an anchor is a false one, mean over both directions.

    Args:
        encoded: The batch; pairs of one image or one caption text are declared matches.
        truth: Knows the false negatives.
        anchors: Which images and texts are asked.
    """
    batch, every = encoded.batch, slice(None)
    shares = []
    for side in SIDES:
        images, texts = (anchors, every) if side == "i2t" else (every, anchors)
        declared = same_pair(batch.image_id, batch.caption_key, images, texts)
        undeclared = encoded.similarity_of(images, texts).masked_fill_(sent(declared, encoded.device), -torch.inf)
        similarity, hardest = (part.cpu() for part in undeclared.max(dim=1 if side == "i2t" else 0))  # [A] each
        image, text = (anchors, hardest) if side == "i2t" else (hardest, anchors)
        false = truth.matches(batch.source_index[image], batch.caption_key[text])  # [A]
        shares.append((false & (similarity > -torch.inf)).float().mean())  # none where all are declared
    return float(torch.stack(shares).mean())


def _precise(features: Any, encoded: EncodedBatch) -> Signal:
    """Image and text features of a batch [B, G] each, in float32 or wider."""
    images, texts = features(encoded)
    return full_precision(images), full_precision(texts)


@torch.no_grad()
def _copy(saved: dict[str, Tensor], tensors: dict[str, Tensor], folder: Path) -> None:
    """Copy saved tensors into those of the momentum model.

    Raises:
        CheckpointError: They are of another model or queue.
    """
    if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in tensors.items()}:
        raise CheckpointError(f"{folder} holds another momentum model or queue; give another run folder")
    for name, tensor in tensors.items():
        tensor.copy_(spread_like(tensor, saved[name]))
