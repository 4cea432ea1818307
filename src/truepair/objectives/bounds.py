"""Bounds on mutual information (SRCL, equations 2, 3, 22 and 36), estimated from a batch to be logged during training.

The score f_ij = exp(s_ij) models the density ratio r_ij = p(t_j | v_i) / p(t_j) up to a factor of the anchor. That
factor is chosen so that the mean ratio over the N candidates is 1: ``log r_ij = s_ij - log mean_k exp(s_ik)``. InfoNCE
drives the information with all negatives towards none, false negatives too; SRCL keeps some of it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.devices import sent
from truepair.objectives.srcl import Regulation
from truepair.relations.pairs import PairSet

_CHUNK = 512  # anchors whose logits are held at once


@dataclass(frozen=True)
class InformationBounds:
    """Estimates in nats, means over the anchors.

    Attributes:
        positive: MI of anchor and positive: mean log r_ii = log N - L_InfoNCE, at most log N (equation 2).
        negative: MI of anchor and negatives: mean over the negatives of log r_ij (the term of equation 3).
        log_mean_ratio: log of the mean ratio of the negatives (the term of equation 22); at least ``negative``.
        regulated: Mean over the negatives of log(w_ij r_ij) (the term of equation 36); ``negative`` when w = 1.
        bound: log N - L with the weights (right-hand side of equation 36); ``positive`` when w = 1.
        suspects: Mean log r_ij of given pairs, known or suspected false negatives; NaN when there is none.
    """

    positive: float
    negative: float
    log_mean_ratio: float
    regulated: float
    bound: float
    suspects: float

    @property
    def gap(self) -> float:
        """MI-P minus MI-N, the quantity whose bound InfoNCE raises (equation 3)."""
        return self.positive - self.negative


@torch.no_grad()
def information_bounds(
    queries: Tensor,
    keys: Tensor,
    temperature: Tensor | float,
    *,
    regulation: Regulation | None = None,
    suspects: PairSet | None = None,
    anchors: slice = slice(None),
) -> InformationBounds:
    """Estimate the bounds on a batch of N pairs; anchors are the queries. Memory O(N), a chunk of anchors at a time.

    Args:
        queries: Features, L2-normalised [N, D].
        keys: Features of the partners [N, D].
        temperature: Positive scalar.
        regulation: SRCL weights of the negatives; None: all 1.
        suspects: Undeclared pairs whose information is reported by itself [N, N].
        anchors: Which queries the means are over, a slice of ascending rows; candidates are all keys. Of the suspects,
            those of the anchors count.

    Raises:
        ValueError: If there are fewer than two pairs, or not as many queries as keys.
    """
    size = len(queries)
    if size != len(keys) or size < 2:
        raise ValueError(f"Bounds need the same number of queries and keys, at least 2; got {size} and {len(keys)}.")
    queries, keys = queries.detach().float(), keys.detach().float()
    chosen = range(*anchors.indices(size))
    terms = []
    for start in range(0, len(chosen), _CHUNK):
        part = chosen[start : start + _CHUNK]
        rows = slice(part.start, part.stop, part.step)
        terms.append(_anchor_terms(queries[rows] @ keys.T, temperature, rows, regulation))
    log_mean_f = torch.cat([part[:, 0] for part in terms])  # [A]
    means = torch.cat([part[:, 1:] for part in terms]).cpu().double().mean(dim=0)  # MPS has no float64
    found = math.nan
    if suspects is not None:
        place = (suspects.rows - chosen.start) / chosen.step  # [P]
        asked = (place >= 0) & (place < len(chosen)) & (place == place.floor())
        images, texts, anchor = (
            sent(part[asked], queries.device) for part in (suspects.rows, suspects.columns, place.long())
        )
        scores = (queries[images] * keys[texts]).sum(dim=1) / temperature
        found = float((scores - log_mean_f[anchor]).mean())  # NaN of none
    positive, negative, log_mean_ratio, regulated, bound = means.tolist()
    return InformationBounds(positive, negative, log_mean_ratio, regulated, bound, found)


def _anchor_terms(
    similarity: Tensor, temperature: Tensor | float, rows: slice, regulation: Regulation | None
) -> Tensor:
    """Per anchor log mean_k f_ik, then the terms of the bounds in their order [R, 6], of cosines [R, N].

    Few passes over the cells: sums over the negatives leave out one cell a row, and weights stay logarithms.
    """
    size = similarity.shape[1]
    own = torch.arange(size, device=similarity.device)[rows].unsqueeze(1)  # [R, 1]
    log_n, log_others = math.log(size), math.log(size - 1)
    logits = similarity / temperature  # [R, N]
    own_logit = logits.gather(1, own).squeeze(1)
    others = logits.scatter_(1, own, -torch.inf)
    log_sum_others = torch.logsumexp(others, dim=1)
    log_mean_f = torch.logaddexp(own_logit, log_sum_others) - log_n
    positive = own_logit - log_mean_f
    negative = _row_sums(others, own) / (size - 1) - log_mean_f
    log_mean_ratio = log_sum_others - log_others - log_mean_f
    if regulation is None:
        return torch.stack([log_mean_f, positive, negative, log_mean_ratio, negative, positive], dim=1)
    log_weights = regulation.log_weights(rows, slice(None), similarity).scatter_(1, own, -torch.inf)
    log_mean_weight = torch.logsumexp(log_weights, dim=1) - log_others
    regulated = negative + _row_sums(log_weights, own) / (size - 1) - log_mean_weight
    weighted = torch.logsumexp(others.add_(log_weights), dim=1) - log_mean_weight
    bound = log_n + own_logit - torch.logaddexp(own_logit, weighted)
    return torch.stack([log_mean_f, positive, negative, log_mean_ratio, regulated, bound], dim=1)


def _row_sums(values: Tensor, own: Tensor) -> Tensor:
    """Sums over the negatives [R]: own cells [R, 1] of ``values`` [R, N] are none, and hold minus infinity after."""
    total = values.scatter_(1, own, 0.0).sum(dim=1)
    values.scatter_(1, own, -torch.inf)
    return total
