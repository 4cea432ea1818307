"""Figures of retrieval: ranks of each query, recall, mAP@R, intervals.

Two protocols stand beside each other. *Any true match*: the candidates are distinct texts, and every pair that is known
to be true counts. *Naive*, the usual protocol of papers (ALBEF, CLIP and nearly all others): the candidates are all
captions that the data set states, and nothing but a query's own pair counts.

Ties count against the match, with one exception: captions of the very same text. They tie whatever the model does, and
the programs of papers leave their order to a sort, so each order counts as equally likely: the recall of such a query
is the chance that an own caption is among the first K. mAP@R and R-Precision, which papers of the usual protocol do not
report, count these ties against the match, too.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from truepair.errors import DataError
from truepair.evaluation.bootstrap import drawn_rows, percentile_interval
from truepair.evaluation.scores import CaptionScores, ScoreSource, as_source
from truepair.evaluation.truth import MatchLists, QuerySet, Truth
from truepair.settings import Natural, Positive

RECALL_DEPTHS = (1, 5, 10)


# A bootstrap's queries drawn at once: tens of megabytes.
_DRAWN_AT_ONCE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class RetrievalProtocol:
    """How a model's retrieval is measured.

    Attributes:
        rerank: candidates per query that ITM re-ranks, in each direction; 0 for similarity alone.
        batch_size: images encoded at once.
        leave_out_families: strict scores; captions of the same family but another group are neither right nor wrong.
    """

    rerank: Natural = 16
    batch_size: Positive = 64
    leave_out_families: bool = False


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval over queries.

    Attributes:
        value: the figure itself.
        low: 2.5 % point of the bootstrap; equals ``value`` where no bootstrap was asked for.
        high: 97.5 % point.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DirectionMetrics:
    """The figures of one direction under one notion of truth. Shares are between 0 and 1.

    Attributes:
        queries: number of queries that count.
        left_out: rows without any right candidate, which ask nothing.
        recall_at_1: share of queries with a match in the first place.
        recall_at_5: the same for the first five places.
        recall_at_10: the same for the first ten places.
        map_at_r: mean average precision at R, R = number of matches of the query.
        r_precision: mean share of matches among the first R places.
        median_rank: median rank of the best match, from 1.
        chance_recall_at_1: what random scores would earn as ``recall_at_1``.
    """

    queries: int
    left_out: int
    recall_at_1: Estimate
    recall_at_5: Estimate
    recall_at_10: Estimate
    map_at_r: Estimate
    r_precision: Estimate
    median_rank: Estimate
    chance_recall_at_1: float


@dataclass(frozen=True)
class RetrievalMetrics:
    """Both directions, under the known truth and naively.

    Attributes:
        i2t: image to text; any true caption counts.
        t2i: text to image; any true image counts.
        naive_i2t: image to text among all stated captions; only the image's own count.
        naive_t2i: text to image, every stated caption asks; only its own image counts.
    """

    i2t: DirectionMetrics
    t2i: DirectionMetrics
    naive_i2t: DirectionMetrics
    naive_t2i: DirectionMetrics

    @property
    def protocols_agree(self) -> bool:
        """Whether both say the same in every figure, as on data of which no match beside the own ones is known."""
        return self.i2t == self.naive_i2t and self.t2i == self.naive_t2i

    @property
    def mean_recall_at_1(self) -> float:
        """R@1 under the known truth, mean of both directions."""
        return (self.i2t.recall_at_1.value + self.t2i.recall_at_1.value) / 2

    @property
    def mean_map_at_r(self) -> float:
        """mAP@R under the known truth, mean of both directions."""
        return (self.i2t.map_at_r.value + self.t2i.map_at_r.value) / 2

    def as_dict(self) -> dict[str, object]:
        """Plain nested dictionaries, ready for JSON."""
        return asdict(self)


def evaluate_retrieval(
    scores: ScoreSource | Tensor,
    truth: Truth,
    *,
    captions: CaptionScores | None = None,
    block_size: int = 512,
    resamples: int = 1000,
    seed: int = 0,
) -> RetrievalMetrics:
    """Score a retrieval run in both directions.

    Memory is a few slices of ``block_size`` rows, never the whole matrix unless the scores are one. Queries are
    resampled as if independent; captions of one image are not quite, so the true intervals are a little wider.

    Args:
        scores: matrix [I, T], or a source of its slices; higher is a better match.
        truth: what is true, own and ignored.
        captions: scores of the C captions that the data set states, for the naive figures; by default each has that of
            its text.
        block_size: rows of scores read at once.
        resamples: bootstrap rounds; 0 gives no intervals.
        seed: of the bootstrap.

    Raises:
        DataError: if a score is NaN, the matrix has the wrong shape, or no query has a match.
    """
    source = as_source(scores)
    if isinstance(scores, Tensor) and scores.shape != (truth.images, truth.captions):
        shape = tuple(scores.shape)
        raise DataError(
            f"score matrix is {shape}, but the truth has {truth.images} images and {truth.captions} captions"
        )
    stated = captions or CaptionScores(source, truth.own_captions[:, 1])

    def measure(queries: QuerySet, rows: Callable[[int, int], Tensor], shape: tuple[int, int]) -> DirectionMetrics:
        """One direction under one protocol, on scores [queries' rows, candidates]."""
        outcomes = rank_queries(rows, shape[0], [queries], block_size)[0]
        return summarise(queries, outcomes, shape[1], (resamples, seed))

    count = len(truth.own_captions)
    return RetrievalMetrics(
        i2t=measure(truth.queries("i2t"), source.image_rows, (truth.images, truth.captions)),
        t2i=measure(truth.queries("t2i"), source.caption_rows, (truth.captions, truth.images)),
        naive_i2t=measure(truth.naive_queries("i2t", stated.texts), stated.image_rows, (truth.images, count)),
        naive_t2i=measure(truth.naive_queries("t2i"), stated.caption_rows, (count, truth.images)),
    )


@dataclass(frozen=True)
class QueryOutcomes:
    """What became of each of Q queries.

    Attributes:
        best_rank: float64 [Q]; rank of the best match, from 1; its mean over the orders of captions of one text.
        hits: float64 [Q, 3]; whether a match is among the first 1, 5 and 10, or how likely where only the order of
            captions of one text decides.
        average_precision: float64 [Q]; average precision over the first R places, where R is the query's number of
            matches (AP@R: Musgrave et al., A Metric Learning Reality Check, 2020, equation 2).
        r_precision: float64 [Q]; share of matches among the first R places.
    """

    best_rank: Tensor
    hits: Tensor
    average_precision: Tensor
    r_precision: Tensor


def rank_queries(
    rows: Callable[[int, int], Tensor], count: int, query_sets: list[QuerySet], block_size: int
) -> list[QueryOutcomes]:
    """Rank the matches of several query sets in one pass over the scores.

    Args:
        rows: gives the scores of query rows ``start..stop - 1`` against all candidates, [stop - start, N].
        count: number of query rows.
        query_sets: the queries, each set over the same rows.
        block_size: rows read at once.

    Returns:
        One ``QueryOutcomes`` for each query set.

    Raises:
        DataError: if a score is NaN.
    """
    parts: list[list[QueryOutcomes]] = [[] for _ in query_sets]
    for start in range(0, count, block_size):
        stop = min(start + block_size, count)
        block = _floats(rows(start, stop), start, stop)
        for queries, part in zip(query_sets, parts, strict=True):
            first, last = torch.searchsorted(queries.rows, torch.tensor([start, stop])).tolist()
            # A row may serve several queries; slices of queries keep memory at a block, whatever their number.
            for begin in range(first, last, block_size):
                chosen = torch.arange(begin, min(begin + block_size, last))
                scores = _take_rows(block, queries.rows[chosen] - start)  # [q, N]
                answers = queries.answers.select(chosen)
                twins = None
                if queries.twins is not None:
                    ends = queries.answers.offsets[[begin, begin + len(chosen)]].tolist()
                    twins = queries.twins[slice(*ends)]
                part.append(_rank(scores, answers, queries.ignored.select(chosen), twins))
    return [_join(part) for part in parts]


def summarise(
    queries: QuerySet, outcomes: QueryOutcomes, candidates: int, bootstrap: tuple[int, int] = (0, 0)
) -> DirectionMetrics:
    """Means, median and their intervals.

    Args:
        queries: what was asked.
        outcomes: what became of each query.
        candidates: size of the gallery.
        bootstrap: resamples (0 gives no intervals) and seed.

    Raises:
        DataError: if there are no queries.
    """
    resamples, seed = bootstrap
    ranks = outcomes.best_rank.numpy()
    if not len(ranks):
        raise DataError("no query has a true match; check that the truth names captions of these images")
    columns = [*outcomes.hits.T.numpy(), outcomes.average_precision.numpy(), outcomes.r_precision.numpy()]
    values = np.stack(columns, axis=1).astype(np.float64)  # [Q, 5]
    stated = np.append(values.mean(axis=0), np.median(ranks))  # [6]
    low, high = _intervals(values, ranks, resamples, seed) if resamples and len(ranks) > 1 else (stated, stated)
    figures = [Estimate(float(v), float(a), float(b)) for v, a, b in zip(stated, low, high, strict=True)]
    chance = queries.answers.sizes.double() / (candidates - queries.ignored.sizes)
    return DirectionMetrics(
        queries=len(ranks),
        left_out=queries.left_out,
        recall_at_1=figures[0],
        recall_at_5=figures[1],
        recall_at_10=figures[2],
        map_at_r=figures[3],
        r_precision=figures[4],
        median_rank=figures[5],
        chance_recall_at_1=float(chance.mean()),
    )


def _intervals(
    values: npt.NDArray[np.float64], ranks: npt.NDArray[np.float64], resamples: int, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Ends of the bootstrap's 95 % intervals of the means of the values and of the median rank, [columns + 1] each.

    Args:
        values: a row a query [Q, columns].
        ranks: of each query's best match [Q].
        resamples: how many draws of Q queries, with replacement.
        seed: of the draws.
    """
    parts = []
    for drawn in drawn_rows(len(ranks), resamples, seed, at_once=_DRAWN_AT_ONCE):  # [r, Q]
        means = [column[drawn].mean(axis=1) for column in values.T]
        parts.append(np.stack([*means, np.median(ranks[drawn], axis=1)], axis=1))
    low, high = percentile_interval(np.concatenate(parts))
    return low, high


def _floats(block: Tensor, start: int, stop: int) -> Tensor:
    """Scores as float32, or float64 if they are; no copy where none is needed."""
    block = block.detach().cpu()
    if block.dtype != torch.float64:
        block = block.float()
    if block.amax().isnan():  # a maximum passes NaN on, and reads faster than isnan
        raise DataError(f"scores of rows {start} to {stop - 1} contain NaN; a ranking of them would mean nothing")
    return block


def _take_rows(block: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a block; a view where they follow each other, as they do when every row asks once."""
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows) and bool((rows.diff() == 1).all()):
        return block[first : last + 1]
    return block[rows]


def _rank(scores: Tensor, answers: MatchLists, ignored: MatchLists, twins: Tensor | None) -> QueryOutcomes:
    """Outcomes of some queries; ``scores`` [q, N] stay as they are; ``twins`` [m] belong to the answers."""
    sizes = answers.sizes  # [q], R of each query
    query, position, candidate = answers.entries()
    matches = scores.new_full((len(sizes), int(sizes.max())), -torch.inf)  # [q, R]
    matches[query, position] = scores[query, candidate]
    matches = matches.sort(dim=1, descending=True).values
    best_rank = 1 + _rivals_ahead(scores, matches[:, :1], answers, ignored)
    # A query whose best match comes after place R earns no precision; with one match, its rank says it all.
    precision = (best_rank <= sizes).double()
    share = precision.clone()
    several = ((best_rank <= sizes) & (sizes > 1)).nonzero().flatten()  # [p]
    if len(several):
        rows = scores[several]  # a copy
        precision[several], share[several] = _precision(
            rows, matches[several], answers.select(several), ignored.select(several)
        )
    hits = (best_rank[:, None] <= torch.tensor(RECALL_DEPTHS)).double()  # [q, 3]
    expected = best_rank.double()
    if twins is not None and len(twins):
        at_best = (scores[query, candidate] == matches[query, 0]).long()  # [m]
        tied = torch.zeros_like(sizes).index_add(0, query, at_best * twins)  # [q], wrong ones of the best match's text
        right = torch.zeros_like(sizes).index_add(0, query, at_best)  # [q], matches as good as the best
        ahead = best_rank - 1 - tied
        shared = tied > 0
        hits[shared] = _chances(ahead[shared], tied[shared], right[shared])
        # The first of r right ones in a random order of t wrong ones: each wrong one is before it in 1 of r + 1 orders.
        expected = ahead + 1 + tied / (right + 1).double()
    return QueryOutcomes(best_rank=expected, hits=hits, average_precision=precision, r_precision=share)


def _chances(ahead: Tensor, tied: Tensor, right: Tensor) -> Tensor:
    """How likely a right candidate is among the first 1, 5 and 10, float64 [q, 3].

    Args:
        ahead: wrong candidates before those that tie, int64 [q].
        tied: wrong candidates among those, in any order, int64 [q].
        right: right ones among them, int64 [q].
    """
    chances = []
    for depth in RECALL_DEPTHS:
        missed = torch.ones(len(ahead), dtype=torch.float64)  # that all places so far are taken by wrong ones
        for place in range(depth):
            left = (tied - place).clamp_min(0)
            wrong = left / (left + right).double()
            missed = torch.where(ahead + place < depth, missed * wrong, missed)
        chances.append(1 - missed)
    return torch.stack(chances, dim=1)


def _rivals_ahead(scores: Tensor, best: Tensor, answers: MatchLists, ignored: MatchLists) -> Tensor:
    """How many candidates that are neither right nor ignored score at least the best match [q, 1]; int64 [q]."""
    # Counted over whole rows, then corrected. Ones as floats add up several times as fast as booleans, and exactly: to
    # 2^24 candidates in float32.
    ahead = torch.ge(scores, best, out=torch.empty_like(scores)).sum(dim=1).long()  # [q]
    for lists in (answers, ignored):
        query, _, candidate = lists.entries()
        counted = scores[query, candidate] >= best[query, 0]
        ahead.index_add_(0, query, -counted.long())
    return ahead


def _precision(scores: Tensor, matches: Tensor, answers: MatchLists, ignored: MatchLists) -> tuple[Tensor, Tensor]:
    """AP@R and R-Precision, float64 [q] each. Overwrites ``scores`` [q, N]; ``matches`` [q, R] are sorted."""
    scores.clamp_min_(torch.finfo(scores.dtype).min)  # from here on -inf marks what is taken out of a ranking
    matches = matches.clamp_min(torch.finfo(scores.dtype).min)
    sizes, longest = answers.sizes, int(answers.sizes.max())
    matches = matches[:, :longest]
    for lists in (answers, ignored):
        query, _, candidate = lists.entries()
        scores[query, candidate] = -torch.inf
    # Only ranks up to R earn precision, so the R best of the rest are all that need be compared.
    rivals = scores.topk(min(longest, scores.shape[1]), dim=1).values.flip(1).contiguous()  # [q, K] ascending
    ahead = rivals.shape[1] - torch.searchsorted(rivals, matches.contiguous())  # [q, R], rivals at least as high
    place = torch.arange(1, longest + 1)  # [R]
    ranks = place + ahead
    earned = (ranks <= sizes[:, None]) & (place <= sizes[:, None])
    precision = torch.where(earned, place / ranks.double(), 0.0)
    return precision.sum(dim=1) / sizes, earned.sum(dim=1).double() / sizes


def _join(parts: list[QueryOutcomes]) -> QueryOutcomes:
    """Outcomes of consecutive queries as one."""
    if not parts:
        nothing = torch.empty(0).double()
        return QueryOutcomes(nothing, torch.empty(0, len(RECALL_DEPTHS)).double(), nothing, nothing)
    return QueryOutcomes(
        best_rank=torch.cat([part.best_rank for part in parts]),
        hits=torch.cat([part.hits for part in parts]),
        average_precision=torch.cat([part.average_precision for part in parts]),
        r_precision=torch.cat([part.r_precision for part in parts]),
    )
