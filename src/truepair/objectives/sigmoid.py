"""The sigmoid loss (SigLIP, Zhai et al. 2023, section 3.2): each cell by itself is a match or not.

For queries q_i, keys k_j and logits z_ij = q_i . k_j / temperature + bias::

    loss = 1/B * sum_ij w_ij * ( - t_ij log sigmoid(z_ij) - (1 - t_ij) log sigmoid(-z_ij) )

t labels each cell from 0 to 1 (is it a match?), w weighs it. Without relations t is the identity and w is 1: SigLIP.
Both come from the same ``Direction`` as targets and weights of the softmax loss, read thus:

* A positive has its share as label, not normalised: each of several matches is a whole one. Its weight is 1.
* Soft targets are the labels as they are.
* A cell with a weight of its own has it; at weight 0 it is neither match nor negative.
* Smoothing a (S-ITC) takes a label to ``(1 - a) * t + a / keys``. Those are S-ITC's own targets, read as labels. The
  even part is what is known before looking: of the keys of a query, one matches. So the labels of a query keep their
  sum of 1, which the bias learns; the usual ``(1 - a) * t + a / 2`` would make half matches of all the negatives.
* SRCL's weights have mean 1 over the negatives of an anchor. A cell has two anchors, its query and its key: it weighs
  the mean of both, as the softmax loss is the mean of both directions.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from truepair.devices import uncompiled
from truepair.objectives import contrastive
from truepair.objectives.contrastive import Direction, Implementation, check_features
from truepair.objectives.labels import CellLabels, dense_sum
from truepair.objectives.sigmoid_tiled import tiled_sum
from truepair.objectives.srcl import Regulation

DENSE_LIMIT = 1 << 15
"""Number of cells up to which "auto" takes the dense form; of more, the tiles are faster, and not only smaller.
Compiled, it is taken up to the softmax loss's limit, so that the graph stays whole: on a CPU it then takes 1.2 to 1.3
times as long as the tiles."""


def sigmoid_loss(
    queries: Tensor,
    keys: Tensor,
    temperature: Tensor | float,
    bias: Tensor | float,
    *,
    rows: Direction | None = None,
    columns: Direction | None = None,
    regulation: Regulation | None = None,
    symmetric: bool = True,
    key_gradient: bool = True,
    implementation: Implementation = "auto",
) -> Tensor:
    """Sigmoid loss of queries against keys: the sum over all cells, divided by the number of queries.

    That is the normalisation of SigLIP, of transformers' ``SiglipModel`` and of open_clip's ``SigLipLoss``. A rank that
    holds some of the queries and the keys of all divides by its own queries: the mean over equal ranks is the loss of
    the whole batch. Every query counts, whether it has a match or not. Half-precision features are computed in float32,
    also under autocast.

    Args:
        queries: Features, L2-normalised as a rule (images, as a rule) [Bq, D].
        keys: Features of the candidates (texts) [Bk, D]. They may be more than the queries: gathered over ranks, or
            with a queue behind them.
        temperature: Positive scalar; as a tensor it gets a gradient.
        bias: Scalar, added to the logits; as a tensor it gets a gradient. SigLIP starts at -10.
        rows: Labels and weights of the cells as the queries see them; each query's own pair when absent.
        columns: Labels and weights as the keys see them, as [Bk, Bq]; the loss is the mean of both. The same cells as
            in ``rows`` when absent.
        regulation: Similarity weights of all candidates that are not positives and have no weight of their own (SRCL).
        symmetric: Whether the keys are anchors too: they have a say in ``columns``, in the regulation's weights, and
            are trained where ``key_gradient`` is off. Off for candidates that are not anchors here.
        key_gradient: Whether an anchor's candidates get a gradient too. Without it a cell trains its query as the
            queries see it and its key as the keys see it, each half as much, and temperature and bias in full.
        implementation: "dense" holds the B x B logits; "tiled" needs O(B D) memory; "auto" decides by size.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: If shapes do not fit together, or a label is not a number from 0 to 1.
    """
    check_features(queries, keys, rows, symmetric)
    size, others = len(queries), len(keys)
    with torch.autocast(queries.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(queries.dtype, keys.dtype), torch.float32)
        queries, keys = queries.to(dtype), keys.to(dtype)
        scale = torch.as_tensor(temperature, dtype=dtype, device=queries.device).reciprocal()
        offset = torch.as_tensor(bias, dtype=dtype, device=queries.device)
        directions = [CellLabels.of(rows or Direction(), size, others, queries, along=1)]
        # Where both directions are the same sum of the same cells, one of them is their mean.
        if symmetric and (columns is not None or regulation is not None or not key_gradient):
            if columns is None:
                directions.append(directions[0].by_keys())
            else:
                directions.append(CellLabels.of(columns, others, size, queries, along=0))
        chosen = _chosen(implementation, size * others)
        total = chosen(queries, keys, scale, offset, directions, regulation, key_gradient=key_gradient)
    return total / (size * len(directions))


_SUMS: Mapping[str, Callable[..., Tensor]] = {"dense": dense_sum, "tiled": tiled_sum}


def _chosen(implementation: Implementation, cells: int) -> Callable[..., Tensor]:
    if implementation == "auto":
        most = contrastive.DENSE_LIMIT if torch.compiler.is_compiling() else DENSE_LIMIT
        implementation = "dense" if cells <= most else "tiled"
    if implementation not in _SUMS:
        raise ValueError(f"implementation is {implementation!r}; use 'auto', 'dense' or 'tiled'.")
    return _SUMS[implementation] if implementation == "dense" else uncompiled(_SUMS[implementation])
