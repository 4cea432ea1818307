"""Samples into batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from truepair.data.dataset import PairSample
from truepair.data.tensor_batch import TensorBatch
from truepair.data.tokenizer import caption_tokens, padded
from truepair.relations.text import normalise_caption

_REMEMBERED = 65_536  # captions


@dataclass(frozen=True)
class PairBatch(TensorBatch):
    """A batch of B pairs.

    Attributes:
        pixel_values: images, float32 [B, 3, H, W]; None if the dataset has no transform.
        input_ids: caption tokens, int64 [B, L], padded on the right.
        attention_mask: 1 at tokens and 0 at padding, int64 [B, L].
        index: rows that were asked for, int64 [B].
        source_index: rows that were delivered, int64 [B]; differs from ``index`` where a sample could not be read.
        image_id: int64 [B].
        caption_id: int64 [B].
        caption_key: key of the normalised caption text, int64 [B].
        captions: the captions as their source states them.
        reasons: why a row was substituted; empty where it was not.
    """

    pixel_values: Tensor | None  # [B, 3, H, W]
    input_ids: Tensor  # [B, L]
    attention_mask: Tensor  # [B, L]
    index: Tensor  # [B]
    source_index: Tensor  # [B]
    image_id: Tensor  # [B]
    caption_id: Tensor  # [B]
    caption_key: Tensor  # [B]
    captions: list[str]
    reasons: list[str]

    def __len__(self) -> int:
        return len(self.captions)


class PairCollator:
    """Makes a ``PairBatch`` of samples: stacks images, tokenizes captions, pads to the longest of the batch.

    The tokens of the captions seen last are remembered: on cached states, tokenizing was an eighth of a step.

    Args:
        tokenizer: any transformers tokenizer with a padding token.
        max_length: most tokens of a caption, special tokens included; longer ones are cut.
        add_sep: end captions with the tokenizer's end token ([SEP]). ALBEF's captions have none.
        normalise: lower-case and strip punctuation before tokenizing, as ALBEF does. ``captions`` stay as they are.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 30,
        *,
        add_sep: bool = True,
        normalise: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.add_sep = add_sep
        self.normalise = normalise
        self._tokens: dict[str, list[int]] = {}

    def __call__(self, samples: Sequence[PairSample]) -> PairBatch:
        """Collate the samples of one batch; all have pixel values, or none has."""
        captions = [sample["caption"] for sample in samples]
        input_ids, attention_mask = self.encode(captions)
        has_pixels = "pixel_values" in samples[0]
        return PairBatch(
            pixel_values=torch.stack([sample["pixel_values"] for sample in samples]) if has_pixels else None,
            input_ids=input_ids,
            attention_mask=attention_mask,
            index=_column(samples, "index"),
            source_index=_column(samples, "source_index"),
            image_id=_column(samples, "image_id"),
            caption_id=_column(samples, "caption_id"),
            caption_key=_column(samples, "caption_key"),
            captions=captions,
            reasons=[sample["reason"] for sample in samples],
        )

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenize captions as in a batch; ``input_ids`` and ``attention_mask``, both int64 [T, L]."""
        if len(self._tokens) > _REMEMBERED:
            self._tokens.clear()
        unseen = [caption for caption in dict.fromkeys(captions) if caption not in self._tokens]
        if unseen:
            texts = [normalise_caption(caption) for caption in unseen] if self.normalise else unseen
            tokens = caption_tokens(self.tokenizer, texts, max_length=self.max_length, add_sep=self.add_sep)
            self._tokens.update(zip(unseen, tokens, strict=True))
        return padded([self._tokens[caption] for caption in captions], self.tokenizer.pad_token_id)


def _column(samples: Sequence[Any], name: str) -> Tensor:
    return torch.tensor([sample[name] for sample in samples], dtype=torch.int64)  # [B]
