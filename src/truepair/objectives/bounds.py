"""Bounds on mutual information (SRCL, equations 2, 3, 22 and 36), estimated from a batch to be logged during training.

The score f_ij = exp(s_ij) models the density ratio r_ij = p(t_j | v_i) / p(t_j) up to a factor of the anchor. That
factor is chosen so that the mean ratio over the N candidates is 1: ``log r_ij = s_ij - log mean_k exp(s_ik)``. InfoNCE
drives the information with all negatives towards none, false negatives too; SRCL keeps some of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.objectives.srcl import Regulation, normalised_weights
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
) -> InformationBounds:
    """Estimate the bounds on a batch of N pairs; anchors are the queries. Memory O(N), a chunk of anchors at a time.

    Args:
        queries: Features, L2-normalised [N, D].
        keys: Features of the partners [N, D].
        temperature: Positive scalar.
        regulation: SRCL weights of the negatives; None: all 1.
        suspects: Undeclared pairs whose information is reported by itself [N, N].

    Raises:
        ValueError: If there are fewer than two pairs, or not as many queries as keys.
    """
    size = len(queries)
    if size != len(keys) or size < 2:
        raise ValueError(f"Bounds need the same number of queries and keys, at least 2; got {size} and {len(keys)}.")
    queries, keys = queries.detach().float(), keys.detach().float()
    sums: list[Tensor] = []
    for start in range(0, size, _CHUNK):
        rows = slice(start, min(start + _CHUNK, size))
        similarity = queries[rows] @ keys.T  # [R, N]
        sums.append(_anchor_terms(similarity, similarity / temperature, rows, regulation))
    log_mean_f = torch.cat([part[:, 0] for part in sums])  # [N]
    terms = torch.cat([part[:, 1:] for part in sums]).cpu().double().mean(dim=0).tolist()  # MPS has no float64
    found = float("nan")
    if suspects is not None and len(suspects):
        scores = (queries[suspects.rows] * keys[suspects.columns]).sum(dim=1) / temperature
        found = float((scores - log_mean_f[suspects.rows]).mean())
    positive, negative, log_mean_ratio, regulated, bound = terms
    return InformationBounds(positive, negative, log_mean_ratio, regulated, bound, found)


def _anchor_terms(similarity: Tensor, logits: Tensor, rows: slice, regulation: Regulation | None) -> Tensor:
    """Per anchor: log mean_k f_ik, then the terms of the bounds in their order [R, 6]; logits [R, N]."""
    size = logits.shape[1]
    own = torch.arange(rows.start, rows.stop, device=logits.device).unsqueeze(1)  # [R, 1]
    negatives = torch.ones_like(logits, dtype=torch.bool).scatter_(1, own, False)
    log_n = torch.tensor(float(size), device=logits.device).log()
    log_mean_f = torch.logsumexp(logits, dim=1) - log_n
    log_ratio = logits - log_mean_f.unsqueeze(1)
    positive = log_ratio.gather(1, own).squeeze(1)
    negative = log_ratio.masked_fill(~negatives, 0.0).sum(dim=1) / (size - 1)
    of_negatives = log_ratio.masked_fill(~negatives, -torch.inf)
    log_mean_ratio = torch.logsumexp(of_negatives, dim=1) - torch.log(log_n.exp() - 1)
    if regulation is None:
        return torch.stack([log_mean_f, positive, negative, log_mean_ratio, negative, positive], dim=1)
    weights = normalised_weights(regulation.log_weights(rows, slice(None), similarity), negatives)
    log_w = weights.masked_fill(~negatives, 1.0).log()
    regulated = negative + log_w.sum(dim=1) / (size - 1)
    bound = log_n + positive - torch.logsumexp(log_ratio + log_w, dim=1)
    return torch.stack([log_mean_f, positive, negative, log_mean_ratio, regulated, bound], dim=1)
