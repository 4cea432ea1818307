"""Efficient connection mining (ECM) in training: a judge's verdicts on pairs of the batch become matches."""

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from truepair.data.pairs import PairBatch
from truepair.engine.distributed.gathering import sum_over_ranks
from truepair.engine.logs.measure import EpochCounts
from truepair.errors import ConfigError
from truepair.judges.base import Judge, JudgeConfig, ledger_name
from truepair.judges.memory import MemorisedJudge
from truepair.methods.encode import StepView
from truepair.objectives.ecm import ZONE_ACTIONS, Zone, ZoneConfig, connect, zones_of
from truepair.objectives.itm import HardNegatives, MatchingPairs, matching_pairs
from truepair.relations.actions import Mask, Relabel, Skip
from truepair.relations.batch import BatchRelations
from truepair.relations.detectors import Detection, JudgedScore
from truepair.relations.ledger import Ledger
from truepair.relations.pairs import PairSet, same_pair


@dataclass(frozen=True)
class CandidateScores:
    """What con-D said about the candidates of a batch of B pairs, as ``objectives.zones.connect`` takes it.

    Attributes:
        i2t: match probability of each image with its candidate texts, NaN where it was not asked, float32 [B, 2].
        t2i: the same of each text with its candidate images [B, 2].
        judged: the cells that were asked about, as (image row, text row), each once; values are the scores [B, B].
    """

    i2t: Tensor  # [B, 2]
    t2i: Tensor  # [B, 2]
    judged: PairSet


def judge_candidates(
    candidates: HardNegatives, batch: PairBatch, discriminator: Judge, zones: ZoneConfig
) -> CandidateScores:
    """Ask con-D about the hardest candidates, and about the second-hardest where the zones call for it.

    That is where the hardest is in between and ``zones.judge_second`` is set. A pair that is a candidate from both
    sides is asked once.

    Args:
        candidates: hardest and second-hardest candidates by the student's similarity.
        batch: the B pairs they are of.
        discriminator: the judge.
        zones: thresholds and rules of ECM.
    """
    size = len(candidates.i2t)
    image, text = _cells(candidates)  # [2B, 2] each: first the candidates of the images, then those of the texts
    exists = torch.cat([candidates.i2t, candidates.t2i]) >= 0  # [2B, 2]
    scores = torch.full_like(image, torch.nan, dtype=torch.float32)  # [2B, 2]
    asked = _Asked(batch, discriminator, size)
    first = exists[:, 0]
    scores[first, 0] = asked.score(image[first, 0], text[first, 0])
    if zones.judge_second:
        second = exists[:, 1] & (zones_of(scores[:, 0], zones) == Zone.BETWEEN)
        scores[second, 1] = asked.score(image[second, 1], text[second, 1])
    return CandidateScores(scores[:size], scores[size:], asked.judged)


def _cells(candidates: HardNegatives) -> tuple[Tensor, Tensor]:
    """Image row and text row of each candidate, those of the images first, [2B, 2] each."""
    own = torch.arange(len(candidates.i2t), device=candidates.i2t.device)[:, None].expand(-1, 2)  # [B, 2]
    return torch.cat([own, candidates.t2i]), torch.cat([candidates.i2t, own])


class _Asked:
    """The cells of a batch that were asked about so far."""

    def __init__(self, batch: PairBatch, discriminator: Judge, size: int) -> None:
        nothing = torch.zeros(0, dtype=torch.long, device=batch.image_id.device)
        self.batch = batch
        self.discriminator = discriminator
        self.judged = PairSet(nothing, nothing, nothing.float(), (size, size))

    def score(self, images: Tensor, texts: Tensor) -> Tensor:
        """Scores of cells [P], asking about those that are new."""
        cells = PairSet(images, texts, torch.zeros_like(images, dtype=torch.float32), self.judged.shape)
        new = cells.distinct()
        new = new.where(~self.judged.contains(new))
        if len(new):
            answers = self.discriminator.score(self.batch, new.rows, new.columns)
            self.judged = PairSet.union(self.judged, new.with_values(answers))
        return self.judged.values[torch.searchsorted(self.judged.linear, cells.linear)]


PLACES = ("itc", "itm", "mlm")


@dataclass(frozen=True, kw_only=True)
class EcmConfig:
    """Efficient connection mining (COSMO/MAFA).

    Attributes:
        discriminator: The judge, con-D.
        zones: Thresholds and rules.
        judge: "hardest" asks about the hardest candidates, as MAFA does; "all" about every undeclared pair of the
            batch, for judges that cost next to nothing; "rules" about every one too, and leaves it to the rules with
            detector "con_d" what becomes of it.
        mask_between: For "all": leave pairs between the thresholds out of ITC too, not only of ITM.
        places: For "hardest": the losses that hear of the verdicts, of itc, itm and mlm; the others take all for
            negatives.
    """

    discriminator: JudgeConfig
    zones: ZoneConfig = field(default_factory=ZoneConfig)
    judge: str = "hardest"
    mask_between: bool = False
    places: list[str] = field(default_factory=lambda: list(PLACES))

    def __post_init__(self) -> None:
        if self.judge not in ("hardest", "all", "rules"):
            raise ConfigError(f"ecm.judge is '{self.judge}'; give hardest, all or rules")
        if not self.places or not set(self.places) <= set(PLACES):
            raise ConfigError(f"ecm.places is {self.places}; give some of {', '.join(PLACES)}")
        if self.judge != "hardest" and set(self.places) != set(PLACES):
            raise ConfigError("ecm.places belongs to ecm.judge 'hardest'; say what the others do in relations.rules")


class SharedJudge:
    """A judge whose work is shared out over the ranks by image; all ask about the same pairs, and get all answers.

    So each image is encoded on one rank, and a rank remembers the verdicts of its own images: none is asked for twice.

    Args:
        discriminator: This rank's judge.
        rank: This process.
        ranks: How many there are.
    """

    def __init__(self, discriminator: Judge, rank: int, ranks: int) -> None:
        self.discriminator = discriminator
        self.rank = rank
        self.ranks = ranks
        self.name = discriminator.name
        self.fingerprint = discriminator.fingerprint
        self.repeatable = discriminator.repeatable

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities, see ``Judge.score``."""
        if self.ranks == 1:
            return self.discriminator.score(batch, images, texts)
        scores = torch.zeros(len(images), device=images.device)  # [P]
        own = batch.image_id[images] % self.ranks == self.rank  # [P]
        if own.any():
            scores[own] = self.discriminator.score(batch, images[own], texts[own])
        dist.all_reduce(scores)
        return scores


class ConnectionMiner:
    """Applies ECM to batches, and counts what it does.

    Args:
        config: Whom to ask about what.
        discriminator: con-D.
        rank: This process.
        ranks: How many there are.
    """

    def __init__(
        self,
        config: EcmConfig,
        discriminator: Judge,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.config = config
        self.own_judge = discriminator
        self.discriminator = SharedJudge(discriminator, rank, ranks)
        self.counts = EpochCounts()
        between = Mask() if config.judge == "all" and config.mask_between else Skip()
        self.actions = {**ZONE_ACTIONS, Zone.BETWEEN: between}

    @property
    def memory(self) -> MemorisedJudge | None:
        """The judge with its memory, if it has one."""
        return self.own_judge if isinstance(self.own_judge, MemorisedJudge) else None

    def connect_hardest(
        self, view: StepView, candidates: HardNegatives, relations: BatchRelations, ledger: Ledger | None
    ) -> tuple[BatchRelations, MatchingPairs, PairSet, PairSet]:
        """MAFA's way: judge the hardest candidates.

        Returns:
            Relations with the new matches, the rows of ITM, the new matches, and all that was judged.
        """
        scores = judge_candidates(candidates, view.batch, self.discriminator, self.config.zones)
        found = connect(candidates, scores.i2t, scores.t2i, self.config.zones)
        self.counts.add(found.counts)
        self._record(scores.judged, view, ledger)
        detection = found.detection
        if self.config.zones.symmetric:
            detection = Detection.mutual(detection.detector, detection.pairs)
        places = self.config.places
        pairs = found.pairs if "itm" in places else matching_pairs(candidates)
        if "itc" in places:
            relations = relations.adding(detection, Relabel())
        return relations, pairs, found.converted, scores.judged

    def judge_all(self, view: StepView) -> PairSet:
        """Scores of every pair of the batch but the own ones and those of one image or one caption text [B, B]."""
        known = same_pair(view.batch.image_id, view.batch.caption_key)
        rows, columns = torch.nonzero(~known, as_tuple=True)
        return PairSet(rows, columns, self.discriminator.score(view.batch, rows, columns), (view.size, view.size))

    def connect_all(
        self, view: StepView, judged: PairSet, relations: BatchRelations, ledger: Ledger | None
    ) -> BatchRelations:
        """The relations with what the thresholds make of all scores; the rules that spoke before have precedence."""
        zones = zones_of(judged.values, self.config.zones)
        for zone in (Zone.ABOVE, Zone.BETWEEN):
            detection = Detection.mutual(JudgedScore.name, judged.where(zones == zone))
            relations = relations.adding(detection, self.actions[zone])
        self.counts.add({f"all/{zone.name.lower()}": (zones == zone).sum() for zone in (Zone.BETWEEN, Zone.ABOVE)})
        self._record(judged.where(zones >= Zone.BETWEEN), view, ledger)
        return relations

    def figures(self) -> dict[str, float]:
        """Counts per zone and direction, hits and misses of the memory; starts counting anew."""
        figures = {f"ecm/{name}": count for name, count in self.counts.take().items()}
        if self.memory is not None:
            memory = self.memory.memory
            asked = sum_over_ranks({"hits": float(memory.hits), "misses": float(memory.misses)})
            figures |= {f"ecm/memory_{name}": count for name, count in asked.items()}
            memory.reset_counts()
        return figures

    def _record(self, judged: PairSet, view: StepView, ledger: Ledger | None) -> None:
        if ledger is None:
            return
        zones = zones_of(judged.values, self.config.zones)
        for zone, action in self.actions.items():
            cells = judged.where(zones == zone)
            ledger.record(
                view.batch.image_id[cells.rows],
                view.batch.caption_id[cells.columns],
                cells.values,
                detector=ledger_name(self.own_judge),
                action=action.name,
                epoch=view.info.epoch,
            )
