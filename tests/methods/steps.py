"""Steps on a tiny ALBEF and made-up pairs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tests.judges.given import GivenJudge
from tests.models.tiny_albef import batch as tiny_inputs
from tests.models.tiny_albef import tiny_model
from truepair.data.pairs import PairBatch
from truepair.engine.loop.step import StepInfo
from truepair.evaluation.truth import ConversionCounter
from truepair.judges.base import Judge, JudgeConfig
from truepair.judges.memory import MemorisedJudge, VerdictMemory
from truepair.methods.ecm import Ecm, EcmConfig
from truepair.methods.encode import BatchEncoder, MicroBatches
from truepair.methods.frozen import FrozenOnBatch
from truepair.methods.momentum import MomentumConfig, MomentumModel
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.methods.srcl import SrclConfig, SrclWeights
from truepair.methods.step import ObjectivesConfig, PretrainStep
from truepair.models.fusion.albef import AlbefModel
from truepair.objectives.mlm import MaskingConfig, TokenMasker
from truepair.relations.ledger import Ledger
from truepair.relations.zones import Zones

IDS = 16
ASKED = JudgeConfig(checkpoint="given")
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def student(seed: int = 0, **fields: Any) -> AlbefModel:
    """A tiny model in float64, without dropout unless it is asked for."""
    return tiny_model(seed, temperature_init=0.1, **{**NO_DROPOUT, **fields}).double()


def pairs(image_ids: list[int], caption_ids: list[int] | None = None, seed: int = 1) -> PairBatch:
    """Pairs of some image and caption ids (the same as the image ids when absent); pixels and tokens are random.

    Captions of one id are of one text.
    """
    captions = image_ids if caption_ids is None else caption_ids
    pixels, ids, mask = tiny_inputs(len(image_ids), seed=seed)
    column = torch.tensor(image_ids)
    texts = torch.tensor(captions)
    return PairBatch(
        pixel_values=pixels.double(),
        input_ids=ids,
        attention_mask=mask,
        index=column,
        source_index=column,
        image_id=column,
        caption_id=texts,
        caption_key=texts + 1000,
        captions=[f"caption {text}" for text in captions],
        reasons=[""] * len(captions),
    )


def of_rank(batch: PairBatch, rank: int, world: int) -> PairBatch:
    """A rank's share of a batch, padded to its own longest caption."""
    share = len(batch) // world
    rows = slice(rank * share, (rank + 1) * share)
    length = int(batch.attention_mask[rows].sum(dim=1).max())
    columns = {name: getattr(batch, name)[rows] for name in vars(batch)}
    cut = {name: columns[name][:, :length] for name in ("input_ids", "attention_mask")}
    return replace(batch, **{**columns, **cut})


def info(step: int = 0, *, epoch: int = 0, per_epoch: int = 10, epochs: int = 2, logged: bool = False) -> StepInfo:
    """Some step of a run of 20."""
    return StepInfo(epoch, step, per_epoch * epochs, per_epoch, logged)


def verdicts(seed: int = 7) -> Tensor:
    """The judge's opinion of each image id (row) and caption id [IDS, IDS]."""
    return torch.rand(IDS, IDS, generator=torch.Generator().manual_seed(seed))


def remembering(table: Tensor) -> MemorisedJudge:
    """A judge of given opinions that is asked once a pair."""
    judge = GivenJudge(table)
    return MemorisedJudge(judge, VerdictMemory(judge.fingerprint))


@dataclass
class Composition:
    """A step, part by part; what is not named is left out."""

    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    relations: RelationsConfig = field(default_factory=RelationsConfig)
    ecm: EcmConfig | None = None
    judge: Callable[[], Judge] = lambda: remembering(verdicts())
    conversions: ConversionCounter | None = None
    srcl: SrclConfig | None = None
    momentum: MomentumConfig | None = None
    guided: bool = False
    ledger: Ledger | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64
    seed: int = 5
    micro_batch: int = 0

    def build(self, rank: int = 0, ranks: int = 1) -> PretrainStep:
        """The step, in training mode."""
        model = student(**self.model).to(self.dtype)
        encoder = BatchEncoder(model, parts=MicroBatches(self.micro_batch))
        masker = TokenMasker(4, [0, 1, 2, 3], model.config.vocab_size, self.objectives.mlm.masking)
        rules = RuleSet(self.relations, [] if self.ecm is None else self.ecm.rules())
        judge = None
        if self.ecm is not None:
            judge = Ecm(self.ecm, self.judge(), rank=rank, ranks=ranks, people=rules.people, ledger=self.ledger)
        return PretrainStep(
            model,
            encoder,
            self.objectives,
            rules,
            masker=masker,
            ecm=judge,
            srcl=None if self.srcl is None else SrclWeights(self.srcl, self._frozen(11)),
            momentum=None if self.momentum is None else MomentumModel(encoder, self.momentum, 1000).to(self.dtype),
            guide=self._frozen(12) if self.guided else None,
            ledger=self.ledger,
            conversions=self.conversions,
            seed=self.seed,
        ).train()

    def _frozen(self, seed: int) -> FrozenOnBatch:
        return FrozenOnBatch(BatchEncoder(student(seed).to(self.dtype), parts=MicroBatches(self.micro_batch)))


def ecm(**fields: Any) -> EcmConfig:
    """Connection mining by the given opinions, of which a fifth are matches."""
    zones = {"low": 0.5, "high": 0.8} | {name: fields.pop(name) for name in ("low", "high") if name in fields}
    return EcmConfig(judge=ASKED, zones=Zones(**zones), **fields)


HALF_MASKED = MaskingConfig(probability=0.5, at_least_one=True)
