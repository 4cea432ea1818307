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
                scores = block[queries.rows[chosen] - start]  # [q, N], a copy
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


def _rank(scores: Tensor, answers: MatchLists, ignored: MatchLists) -> QueryOutcomes:
    """Outcomes of some queries. Overwrites ``scores`` [q, N]."""
    scores.clamp_min_(torch.finfo(scores.dtype).min)  # from here on -inf marks what is taken out of a ranking
    sizes = answers.sizes  # [q], R of each query
    longest = int(sizes.max())
    query, position, candidate = answers.entries()
    matches = scores.new_full((len(sizes), longest), -torch.inf)  # [q, R]
    matches[query, position] = scores[query, candidate]
    matches = matches.sort(dim=1, descending=True).values
    scores[query, candidate] = -torch.inf
    ignored_query, _, ignored_candidate = ignored.entries()
    scores[ignored_query, ignored_candidate] = -torch.inf

    best_rank = 1 + (scores >= matches[:, :1]).sum(dim=1, dtype=torch.int32).long()
    # Only ranks up to R earn precision, so the R best of the rest are all that need be compared.
    rivals = scores.topk(min(longest, scores.shape[1]), dim=1).values.flip(1).contiguous()  # [q, K] ascending
    ahead = rivals.shape[1] - torch.searchsorted(rivals, matches)  # [q, R], rivals scoring at least the match
    place = torch.arange(1, longest + 1)  # [R]
    ranks = place + ahead
    earned = (ranks <= sizes[:, None]) & (place <= sizes[:, None])
    precision = torch.where(earned, place / ranks.double(), 0.0)
    return QueryOutcomes(
        best_rank=best_rank,
        average_precision=precision.sum(dim=1) / sizes,
        r_precision=earned.sum(dim=1).double() / sizes,
    )


def _join(parts: list[QueryOutcomes]) -> QueryOutcomes:
    """Outcomes of consecutive queries as one."""
    if not parts:
        return QueryOutcomes(torch.empty(0, dtype=torch.int64), torch.empty(0).double(), torch.empty(0).double())
    return QueryOutcomes(
        best_rank=torch.cat([part.best_rank for part in parts]),
        average_precision=torch.cat([part.average_precision for part in parts]),
        r_precision=torch.cat([part.r_precision for part in parts]),
    )
