"""How each query ranks its true matches, by counting scores rather than sorting them.

Tie rule: a tie counts against the match. A candidate that is not a match and scores the same as one is ranked before
it, so constant scores earn nothing. Candidates that are ignored are not counted at all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.errors import DataError
from truepair.evaluation.match_lists import MatchLists
from truepair.evaluation.truth import QuerySet


@dataclass(frozen=True)
class QueryOutcomes:
    """What became of each of Q queries.

    Attributes:
        best_rank: int64 [Q]; rank of the best match, from 1.
        average_precision: float64 [Q]; average precision over the first R places, where R is the query's number of
            matches (AP@R: Musgrave et al., A Metric Learning Reality Check, 2020, equation 2).
        r_precision: float64 [Q]; share of matches among the first R places.
    """

    best_rank: Tensor
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
                part.append(_rank(scores, queries.answers.select(chosen), queries.ignored.select(chosen)))
    return [_join(part) for part in parts]


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


def _rank(scores: Tensor, answers: MatchLists, ignored: MatchLists) -> QueryOutcomes:
    """Outcomes of some queries; ``scores`` [q, N] stay as they are."""
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
    return QueryOutcomes(best_rank=best_rank, average_precision=precision, r_precision=share)


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
        return QueryOutcomes(torch.empty(0, dtype=torch.int64), torch.empty(0).double(), torch.empty(0).double())
    return QueryOutcomes(
        best_rank=torch.cat([part.best_rank for part in parts]),
        average_precision=torch.cat([part.average_precision for part in parts]),
        r_precision=torch.cat([part.r_precision for part in parts]),
    )
