"""How retrieval is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RetrievalProtocol:
    """How a model's retrieval is measured.

    Attributes:
        rerank: candidates per query that ITM re-ranks, in each direction; 0 for similarity alone.
        batch_size: images encoded at once.
        leave_out_families: strict scores; captions of the same family but another group are neither right nor wrong.
    """

    rerank: int = 16
    batch_size: int = 64
    leave_out_families: bool = False
