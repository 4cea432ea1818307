"""Efficient connection mining (ECM) in training: a judge's verdicts on pairs of the batch, and which become matches."""

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from truepair.data.pairs import PairBatch
from truepair.devices import sent
from truepair.engine.distributed.gathering import sum_over_ranks
from truepair.engine.logs.measure import EpochCounts
from truepair.errors import ConfigError
from truepair.judges.base import Judge, JudgeConfig, ledger_name
from truepair.judges.memory import MemorisedJudge
from truepair.methods.encode import EncodedBatch
from truepair.objectives.ecm import connect
from truepair.objectives.itm import HardNegatives, MatchingPairs, matching_pairs
from truepair.relations.actions import Mask, Relabel, Skip
from truepair.relations.batch import BatchRelations
from truepair.relations.detectors import Judged
from truepair.relations.ledger import Ledger, VerdictIndex
from truepair.relations.pairs import PairSet, same_pair
from truepair.relations.rules import Rule
from truepair.relations.zones import Zone, Zones

PLACES = ("itc", "itm", "mlm")


@dataclass(frozen=True, kw_only=True)
class EcmConfig:
    """Efficient connection mining (COSMO/MAFA).

    Attributes:
        judge: Who is asked; the paper's con-D.
        ask: "hardest" asks about the hardest candidates, as MAFA does; "all" about every undeclared pair of the batch,
            for judges that cost next to nothing; "rules" about every one too, and leaves it to the rules with detector
            "judge" what becomes of it.
        zones: Thresholds: what is a match, and what is doubtful.
        mask_doubtful: For "all": leave doubtful pairs out of ITC too, not only of ITM.
        places: For "hardest": the losses that hear of the verdicts, of itc, itm and mlm, which is ITG in BLIP-2; the
            others take all for negatives.
        symmetric: For "hardest": a match is a positive of both ITC directions, whoever found it; in the MAFA program it
            is not.
        judge_second: For "hardest": put the second-hardest through the zones too, instead of calling it a negative
            unseen, as the MAFA program does.
        once: For "hardest": count a match found from both sides once in ITM and MLM; in the MAFA program it counts
            twice.

    Raises:
        ConfigError: Values that do not exist, or do not go together.
    """

    judge: JudgeConfig
    ask: str = "hardest"
    zones: Zones = field(default_factory=Zones)
    mask_doubtful: bool = False
    places: list[str] = field(default_factory=lambda: list(PLACES))
    symmetric: bool = True
    judge_second: bool = True
    once: bool = True

    def __post_init__(self) -> None:
        if self.ask not in ("hardest", "all", "rules"):
            raise ConfigError(f"ecm.ask is '{self.ask}'; give hardest, all or rules")
        if not self.places or not set(self.places) <= set(PLACES):
            raise ConfigError(f"ecm.places is {self.places}; give some of {', '.join(PLACES)}")
        if self.ask != "hardest" and set(self.places) != set(PLACES):
            raise ConfigError("ecm.places belongs to ecm.ask 'hardest'; say what the others do in relations.rules")
        if self.ask != "hardest" and not self.zones.closed:
            raise ConfigError("ecm.zones.closed false belongs to ecm.ask 'hardest'; leave it out")

    def rules(self) -> list[Rule]:
        """What "all" makes of the judge's verdicts, behind the rules of the recipe."""
        if self.ask != "all":
            return []
        low, high = self.zones.low, self.zones.high
        doubtful = Mask() if self.mask_doubtful else Skip()
        return [Rule(Judged("match", low, high), Relabel()), Rule(Judged("doubtful", low, high), doubtful)]


@dataclass(frozen=True)
class EcmPairs:
    """What became of the hardest candidates of a batch.

    Attributes:
        relations: With the new matches.
        itm: The rows that ITM reads.
        mlm: The new matches that MLM reads [B, B].
        matches: All new matches [B, B].
        judged: The cells that the judge was asked about [B, B].
    """

    relations: BatchRelations
    itm: MatchingPairs
    mlm: PairSet
    matches: PairSet
    judged: PairSet


class Ecm:
    """Asks a judge about pairs of the batches, writes down what it says, and counts what comes of it.

    Args:
        config: Whom to ask about what.
        judge: This rank's.
        rank: This process.
        ranks: How many there are.
        people: Verdicts of people, which override the judge's.
        ledger: Where the judge's verdicts go.
        least: For "all" and "rules": least probability worth writing down.
        doubt: Probability from which on :meth:`probable` keeps pairs for the sampler; None for keeping none.
    """

    def __init__(
        self,
        config: EcmConfig,
        judge: Judge,
        *,
        rank: int = 0,
        ranks: int = 1,
        people: VerdictIndex | None = None,
        ledger: Ledger | None = None,
        least: float | None = None,
        doubt: float | None = None,
    ) -> None:
        self.config = config
        self.own_judge = judge
        self.judge = SharedJudge(judge, rank, ranks)
        self.people = people
        self.ledger = ledger
        self.least = config.zones.low if least is None else least
        self.doubt = doubt
        self._probable: Tensor | None = None
        self.counts = EpochCounts()

    @property
    def memory(self) -> MemorisedJudge | None:
        """The judge with its memory, if it has one."""
        return self.own_judge if isinstance(self.own_judge, MemorisedJudge) else None

    def judge_all(self, encoded: EncodedBatch) -> PairSet:
        """Probabilities of every pair of the batch but the own ones and those of one image or one text [B, B]."""
        batch = encoded.batch
        rows, columns = torch.nonzero(~same_pair(batch.image_id, batch.caption_key), as_tuple=True)
        said = PairSet(rows, columns, self.judge.score(batch, rows, columns), (encoded.size, encoded.size))
        self._record(said.where(said.values >= self.least), encoded)
        judged = _overridden(said, batch, self.people)
        self._keep_probable(judged, batch)
        if self.config.ask == "all":
            zones = self.config.zones.of(judged.values)
            counted = {"between": Zone.DOUBTFUL, "above": Zone.MATCH}
            self.counts.add({f"all/{name}": (zones == zone).sum() for name, zone in counted.items()})
        return judged

    def judge_hardest(self, encoded: EncodedBatch, candidates: HardNegatives, relations: BatchRelations) -> EcmPairs:
        """MAFA's way: judge the hardest candidates, and the second-hardest where the zones call for it.

        That is where the hardest is doubtful and ``judge_second`` is set. A pair that is a candidate from both sides is
        asked about once.

        Args:
            encoded: The batch.
            candidates: Hardest and second-hardest candidates by the student's similarity.
            relations: What the rules found; its matches are no candidates.
        """
        config, batch = self.config, encoded.batch
        i2t, t2i, said = judge_candidates(
            candidates, batch, self.judge, config.zones, judge_second=config.judge_second, people=self.people
        )
        self._record(said, encoded)
        self._keep_probable(_overridden(said, batch, self.people), batch)
        found = connect(candidates, i2t, t2i, config.zones, judge_second=config.judge_second, once=config.once)
        self.counts.add(found.counts)
        if "itc" in config.places:
            matches = found.matches.mutual() if config.symmetric else found.matches
            relations = relations.adding(Judged.name, matches, Relabel())
        return EcmPairs(
            relations=relations,
            itm=found.pairs if "itm" in config.places else matching_pairs(candidates),
            mlm=found.converted if "mlm" in config.places else PairSet.empty(*said.shape, device=said.device),
            matches=found.converted,
            judged=said,
        )

    def probable(self) -> Tensor | None:
        """Rows of the pairs of the last batch that match with probability ``doubt`` or more, int64 [P, 2]; once.

        None where none were to be kept, or nobody was asked.
        """
        found, self._probable = self._probable, None
        return found

    def figures(self) -> dict[str, float]:
        """Counts per zone and direction, hits and misses of the memory; starts counting anew."""
        figures = {f"ecm/{name}": count for name, count in self.counts.take().items()}
        if self.memory is not None:
            memory = self.memory.memory
            asked = sum_over_ranks({"hits": float(memory.hits), "misses": float(memory.misses)})
            figures |= {f"ecm/memory_{name}": count for name, count in asked.items()}
            memory.reset_counts()
        return figures

    def _keep_probable(self, judged: PairSet, batch: PairBatch) -> None:
        if self.doubt is not None:
            likely = judged.where(judged.values >= self.doubt)
            self._probable = torch.stack([batch.source_index[likely.rows], batch.source_index[likely.columns]], dim=1)

    def _record(self, said: PairSet, encoded: EncodedBatch) -> None:
        """Write down what the judge said; what it would say again is written once."""
        if self.ledger is not None:
            self.ledger.record(
                encoded.batch.image_id[said.rows],
                encoded.batch.caption_id[said.columns],
                said.values,
                judge=ledger_name(self.own_judge),
                epoch=encoded.info.epoch,
                once=self.own_judge.repeatable,
            )


class SharedJudge:
    """A judge whose work is shared out over the ranks by image; all ask about the same pairs, and get all answers.

    So each image is encoded on one rank, and a rank remembers the verdicts of its own images: none is asked for twice.

    Args:
        judge: This rank's judge.
        rank: This process.
        ranks: How many there are.
    """

    def __init__(self, judge: Judge, rank: int, ranks: int) -> None:
        self.judge = judge
        self.rank = rank
        self.ranks = ranks
        self.name = judge.name
        self.fingerprint = judge.fingerprint
        self.repeatable = judge.repeatable

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities [P] of (image row, text row) pairs [P], [P], see ``Judge.score``."""
        if self.ranks == 1:
            return self.judge.score(batch, images, texts)
        scores = torch.zeros(len(images))  # [P]
        own = batch.image_id[images] % self.ranks == self.rank  # [P]
        if own.any():
            scores[own] = self.judge.score(batch, images[own], texts[own])
        shared = sent(scores, batch.device)
        dist.all_reduce(shared)
        return shared.cpu()


def judge_candidates(
    candidates: HardNegatives,
    batch: PairBatch,
    judge: Judge,
    zones: Zones,
    *,
    judge_second: bool = True,
    people: VerdictIndex | None = None,
) -> tuple[Tensor, Tensor, PairSet]:
    """Ask a judge about the hardest candidates, and about the second-hardest where the hardest is doubtful.

    Args:
        candidates: Hardest and second-hardest candidates of each image and each text.
        batch: The B pairs.
        judge: Whom to ask; about a pair that is a candidate from both sides once.
        zones: Thresholds, which say what is doubtful.
        judge_second: Ask about the second-hardest at all.
        people: Verdicts of people, which override the judge's.

    Returns:
        Probabilities of each image's and of each text's candidates, NaN where nobody was asked, [B, 2] each; and what
        the judge itself said, each cell once [B, B].
    """
    size = len(candidates.i2t)
    image, text = _cells(candidates)  # [2B, 2] each: first the candidates of the images, then those of the texts
    exists = torch.cat([candidates.i2t, candidates.t2i]) >= 0  # [2B, 2]
    scores = torch.full_like(image, torch.nan, dtype=torch.float32)  # [2B, 2]
    said = PairSet.empty(size, size, device=image.device)
    asked = exists[:, 0]
    for place in (0, 1):
        cells = PairSet(image[asked, place], text[asked, place], scores[asked, place], said.shape)
        new = cells.distinct()
        new = new.where(~said.contains(new))
        if len(new):
            said = PairSet.union(said, new.with_values(judge.score(batch, new.rows, new.columns)))
        scores[asked, place] = _overridden(cells.overridden_by(said), batch, people).values
        if not judge_second:
            break
        asked = exists[:, 1] & (zones.of(scores[:, 0]) == Zone.DOUBTFUL)
    return scores[:size], scores[size:], said


def _overridden(cells: PairSet, batch: PairBatch, people: VerdictIndex | None) -> PairSet:
    """The verdicts, but a person's where there is one [B, B]."""
    return cells if people is None else cells.overridden_by(people.within(batch.image_id, batch.caption_id))


def _cells(candidates: HardNegatives) -> tuple[Tensor, Tensor]:
    """Image row and text row of each candidate, those of the images first, [2B, 2] each."""
    own = torch.arange(len(candidates.i2t), device=candidates.i2t.device)[:, None].expand(-1, 2)  # [B, 2]
    return torch.cat([own, candidates.t2i]), torch.cat([candidates.i2t, own])
