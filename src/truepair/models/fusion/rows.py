"""Rows of text that share an image or a length, so that work is done once for each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.devices import sent
from truepair.models.encoders.recomputing import recomputed

_LEAST_ROWS = 16

_MOST_GROUPS = 8


def apply_by_length(
    states: Tensor,
    attention_mask: Tensor,
    function: Callable[[Tensor | slice, Tensor, Tensor], Tensor],
    *,
    cls_only: bool = False,
) -> Tensor:
    """Apply a function of rows of tokens to groups of rows of like length.

    On accelerators all rows are one group: a group would cost a wait for the host. So they are in a graph that is
    traced for export, which must not depend on the lengths of an example.

    Args:
        states: One entry per token, ids [R, L] or states [R, L, D].
        attention_mask: 1 for tokens, then 0 for padding, [R, L].
        function: From the numbers [r] of some rows, or a slice of them, their entries and their mask, both cut to the
            l tokens of the longest of them, to new states [r, l, D]; [r, 1, D] with ``cls_only``.
        cls_only: The function returns one state a row.

    Returns:
        The new states in the order of the rows [R, L, D], zero behind the end of a group; [R, 1, D] with ``cls_only``.
    """
    rows, length = attention_mask.shape
    if states.device.type != "cpu" or torch.compiler.is_compiling():
        return function(slice(None), states, attention_mask)
    lengths = attention_mask.sum(dim=1)  # [R]
    order = torch.argsort(lengths, stable=True)
    parts = []
    for group in order.chunk(max(1, min(_MOST_GROUPS, rows // _LEAST_ROWS))):
        longest = max(1, int(lengths[group[-1:]].sum()))  # of no rows at all there is no longest
        part = function(group, states[group, :longest], attention_mask[group, :longest])
        parts.append(part if cls_only else F.pad(part, (0, 0, 0, length - longest)))
    return torch.cat(parts)[torch.argsort(order)]


@dataclass(frozen=True)
class RowGroups:
    """R rows in S slots of G places each, all rows of a slot using the same one of I sources.

    In cross-attention the queries of different rows do not see each other. So the rows that share an image can be laid
    end to end as one long query, and its keys and values are then read in place. G is the mean number of rows a source
    has, rounded up. A source with more rows gets several slots; thus there are at most I + R / G of them, and neither
    the copies of keys and values nor the empty places can outgrow the batch when one image is very popular.
    `benchmarks/fusion_sharing.py` compares this with a copy per row.
    """

    place: Tensor
    """[R] int64: the place of each row among the S * G places."""
    source: Tensor
    """[S] int64: the source each slot uses."""
    size: int
    """G, places per slot."""
    in_order: bool
    """Slot s uses source s, so nothing has to be copied."""

    @classmethod
    def of(cls, sources: Tensor, count: int, device: torch.device | None = None) -> Self:
        """Pack rows. This is planned on the host: a device where the sources are is waited for once.

        How many slots there are is for the data to say. A graph of ``torch.compile`` has as many as there can be.

        Args:
            sources: The source of each row, [R] int64, each below `count`.
            count: I, the number of sources.
            device: Where the rows are; where the sources are when absent.
        """
        device = sources.device if device is None else device
        sources, rows = sources.cpu(), len(sources)
        size = max(1, -(-rows // count))
        used = sources.new_zeros(count).index_add(0, sources, torch.ones_like(sources))  # [I] rows of each source
        slots = (used + size - 1).div(size, rounding_mode="floor")  # [I] slots of each source
        # The rank of each row among the rows of its source: its position after sorting, less where that source begins.
        order = torch.argsort(sources, stable=True)
        begins = used.cumsum(0) - used  # [I]
        rank = torch.empty_like(sources)
        rank[order] = torch.arange(rows) - begins[sources[order]]
        ends = slots.cumsum(0)  # [I]
        place = (ends - slots)[sources] * size + rank
        if torch.compiler.is_compiling():
            in_order, total = False, (rows + count * (size - 1)) // size
        else:
            in_order, total = bool((slots == 1).all()), int(ends[-1])
        source = torch.searchsorted(ends, torch.arange(total), right=True).clamp(max=count - 1)  # [S]
        return cls(sent(place, device), sent(source, device), size, in_order)

    def pack(self, rows: Tensor) -> Tensor:
        """Rows [R, L, D] to slots [S, G * L, D]; empty places are zero."""
        places = rows.new_zeros(len(self.source) * self.size, *rows.shape[1:])
        return places.index_copy(0, self.place, rows).view(len(self.source), -1, rows.shape[2])

    def unpack(self, slots: Tensor) -> Tensor:
        """Slots [S, G * L, D] to rows [R, L, D]."""
        return slots.reshape(len(slots) * self.size, -1, slots.shape[2]).index_select(0, self.place)

    def expand(self, sources: Tensor) -> Tensor:
        """One entry per source [I, ...] to one per slot [S, ...]; a source's gradient is the sum over its slots."""
        return sources if self.in_order else sources.index_select(0, self.source)


def attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    groups: RowGroups | None = None,
) -> Tensor:
    """What each row reads of its source with each of its heads [R, L, D]; all are projected already, none is split.

    Args:
        queries: Rows [R, L, D].
        keys: Keys [R, N, D]; with `groups`, [I, N, D] for the I shared sources.
        values: As `keys`.
        heads: How many.
        mask: True where a key may be seen; it must broadcast to [R, heads, L, N]. With `groups`, one row per slot,
            [S, 1, 1, N].
        dropout: Share of the weights of attention that is dropped.
        groups: Which row uses which source; None means row r uses source r.
    """

    def split(states: Tensor) -> Tensor:
        """States of all heads side by side, a head each."""
        return states.view(*states.shape[:2], heads, -1).transpose(1, 2)  # [R, L, D] -> [R, heads, L, D / heads]

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What each row or slot reads of its source [R or S, L or G * L, D]."""
        if groups is not None:
            keys, values = groups.expand(keys), groups.expand(values)  # [S, N, D]
        context = F.scaled_dot_product_attention(
            split(queries), split(keys), split(values), attn_mask=mask, dropout_p=dropout
        )
        return context.transpose(1, 2).flatten(2)

    if groups is None:
        return attend(queries, keys, values)
    if groups.in_order:
        return groups.unpack(attend(groups.pack(queries), keys, values))
    # Copies of keys and values for each slot would be most of what fusion keeps.
    return groups.unpack(recomputed(attend, groups.pack(queries), keys, values, random=dropout > 0))
