"""Judges and batches for tests whose opinions are given."""

import torch
from torch import Tensor

from truepair.data.pairs import PairBatch
from truepair.relations.text import caption_key


class GivenJudge:
    """Scores (image id, caption id) by a table, and notes what it was asked."""

    def __init__(self, table: Tensor, *, repeatable: bool = True) -> None:
        self.table = table
        self.name = "given"
        self.fingerprint = "0123456789abcdef" * 2
        self.repeatable = repeatable
        self.asked: list[tuple[int, int]] = []

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        ids = batch.image_id[images].cpu(), batch.caption_id[texts].cpu()
        self.asked += list(zip(*(column.tolist() for column in ids), strict=True))
        return self.table[ids].to(images.device)


def batch_of(rows: Tensor, captions: list[str] | None = None, pixels: Tensor | None = None) -> PairBatch:
    """A batch of some rows; image and caption ids are the row numbers."""
    texts = [f"caption {row}" for row in rows.tolist()] if captions is None else captions
    tokens = torch.ones(len(rows), 3, dtype=torch.int64)
    return PairBatch(
        pixel_values=pixels,
        input_ids=tokens,
        attention_mask=tokens,
        index=rows,
        source_index=rows,
        image_id=rows,
        caption_id=rows,
        caption_key=torch.tensor([caption_key(text) for text in texts]),
        captions=texts,
        reasons=[""] * len(rows),
    )
