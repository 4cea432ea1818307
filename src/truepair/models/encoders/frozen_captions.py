"""States of captions from a frozen text encoder: computed once per distinct caption, stored without padding."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from truepair.errors import DataError
from truepair.models.encoders.base import masked_mean
from truepair.models.encoders.fingerprint import combined_key, encoder_fingerprint
from truepair.models.encoders.frozen import FrozenStates, Progress, StateBlock

EncodeCaptions = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Captions to token ids and attention mask (1 = token, then 0 = padding), both int64 [T, L]."""

_LABEL = "captions"


@dataclass(frozen=True)
class CaptionStates:
    """States of captions, by their text: one per token, or the pooled one alone.

    Attributes:
        tokens: the states of all captions, one after the other; a row is one state (D).
        places: first row and number of states of each caption.
    """

    tokens: FrozenStates
    places: Mapping[str, tuple[int, int]]

    def gather(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States of some captions, padded to the longest of them.

        Returns:
            States float32 [B, N, D], zero on padding, and which of them are states (1) or padding (0), int64 [B, N].

        Raises:
            DataError: a caption that is not in the cache.
        """
        missing = next((caption for caption in captions if caption not in self.places), None)
        if missing is not None:
            raise DataError(f"the cache of caption states lacks '{missing}'; compute it for all captions of the run")
        first, length = torch.tensor([self.places[caption] for caption in captions]).T  # [B], [B]
        positions = torch.arange(int(length.max()))  # [L]
        mask = positions < length[:, None]  # [B, L]
        rows = (first[:, None] + positions)[mask]  # [T]
        states = torch.zeros(*mask.shape, *self.tokens.shape)
        states[mask] = self.tokens.gather(rows)
        return states, mask.long()


def cache_caption_states(
    encoder: nn.Module,
    captions: Iterable[str],
    encode: EncodeCaptions,
    folder: Path,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
    encoder_key: str | None = None,
    whole: tuple[nn.Module, str] | None = None,
) -> CaptionStates:
    """Compute the states of every distinct caption once, or open those that are there.

    The key of the cache is of the encoder and of all token ids. Captions are encoded in order of length, so that
    little padding is computed.

    Args:
        encoder: called with ``input_ids`` and ``attention_mask`` [B, L]; returns one state per token [B, L, D] or per
            caption [B, 1, D], as the text tower of a `DualEncoder` does, or an output of transformers with
            ``last_hidden_state``.
        captions: texts; repeated ones are encoded once.
        encode: the tokenization of the run, such as that of its collator.
        folder: where caches are kept.
        batch_size: captions encoded at once.
        progress: called with (states done, states in all).
        encoder_key: the encoder's fingerprint, if it is known.
        whole: an encoder whose states the encoder's are the mean of, and its fingerprint: where its states are kept
            already, those are opened.

    Raises:
        DataError: no captions, or no room on the disk.
    """
    distinct = sorted(set(captions))
    if not distinct:
        raise DataError("there are no captions to encode; check the split")
    input_ids, attention_mask = encode(distinct)  # [T, L], [T, L]
    order = attention_mask.sum(dim=1).argsort(stable=True)
    distinct, input_ids, attention_mask = [distinct[i] for i in order], input_ids[order], attention_mask[order]
    tokens = attention_mask.sum(dim=1)  # [T]

    def key_of(fingerprint: str) -> str:
        """The key of what an encoder makes of the captions."""
        return combined_key(encoder=fingerprint, input_ids=input_ids, attention_mask=attention_mask)

    key = key_of(encoder_key or encoder_fingerprint(encoder))
    if whole is not None and FrozenStates.kept(folder, key_of(whole[1]), _LABEL):
        encoder, key = whole[0], key_of(whole[1])

    def encoded(part: slice) -> tuple[Tensor, Tensor]:
        """Some captions as states [B, N, D], and which of these are none of padding, bool [B, N]."""
        longest = int(tokens[part].max())
        mask = attention_mask[part, :longest]
        states = _encode(encoder, input_ids[part, :longest], mask)
        return states, mask.bool()[:, : states.shape[1]]

    longest_caption, states_of_it = encoded(slice(len(distinct) - 1, None))
    width = longest_caption.shape[2]
    lengths = tokens.clamp(max=states_of_it.shape[1])  # [T], states of each caption
    first = lengths.cumsum(0) - lengths  # [T]

    def blocks(start: int) -> Iterator[StateBlock]:
        """The blocks from row ``start`` on."""
        caption = int((first < start).sum())  # blocks end with a caption, so `start` is the first row of one
        for begin in range(caption, len(distinct), batch_size):
            states, is_state = encoded(slice(begin, begin + batch_size))
            yield StateBlock(states[is_state])

    cache = FrozenStates.open_or_compute(
        folder, key, int(lengths.sum()), (width,), blocks, label=_LABEL, progress=progress
    )
    places = dict(zip(distinct, zip(first.tolist(), lengths.tolist(), strict=True), strict=True))
    return CaptionStates(cache, places)


class PooledCaptions(nn.Module):
    """A text encoder that hands out one state a caption, the mean of its token states.

    Args:
        encoder: called with ``input_ids`` and ``attention_mask`` [B, L]; see `cache_caption_states`.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask [B, L] to states [B, 1, D]."""
        states = _states_of(self.encoder(input_ids=input_ids, attention_mask=attention_mask))  # [B, N, D]
        return masked_mean(states, attention_mask[:, : states.shape[1]])[:, None]


@torch.inference_mode()
def _encode(encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Token ids and mask [B, L] to states [B, N, D] on the CPU, in evaluation mode."""
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    output = encoder(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device))
    encoder.train(training)
    return _states_of(output).cpu()


def _states_of(output: Any) -> Tensor:
    """The states of a text encoder's output."""
    states: Tensor = getattr(output, "last_hidden_state", output)
    return states
