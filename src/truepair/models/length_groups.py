"""Rows of like length, worked on together, so that little padding is computed."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST_ROWS = 16
_MOST_GROUPS = 8


def apply_by_length(
    states: Tensor,
    attention_mask: Tensor,
    function: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    cls_only: bool = False,
) -> Tensor:
    """Apply a function of rows of tokens to groups of rows of like length.

    On accelerators all rows are one group: a group would cost a wait for the host.

    Args:
        states: One entry per token, ids [R, L] or states [R, L, D].
        attention_mask: 1 for tokens, then 0 for padding, [R, L].
        function: From the numbers [r] of some rows, their entries and their mask, both cut to the l tokens of the
            longest of them, to new states [r, l, D]; [r, 1, D] with ``cls_only``.
        cls_only: The function returns one state a row.

    Returns:
        The new states in the order of the rows [R, L, D], zero behind the end of a group; [R, 1, D] with ``cls_only``.
    """
    rows, length = attention_mask.shape
    if states.device.type != "cpu":
        return function(torch.arange(rows, device=states.device), states, attention_mask)
    lengths = attention_mask.sum(dim=1)  # [R]
    order = torch.argsort(lengths, stable=True)
    parts = []
    for group in order.chunk(max(1, min(_MOST_GROUPS, rows // _LEAST_ROWS))):
        longest = max(1, int(lengths[group[-1:]].sum()))  # of no rows at all there is no longest
        part = function(group, states[group, :longest], attention_mask[group, :longest])
        parts.append(part if cls_only else F.pad(part, (0, 0, 0, length - longest)))
    return torch.cat(parts)[torch.argsort(order)]
