"""Beam search over any decoder that goes on token by token."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from truepair.errors import ConfigError


def beam_search(
    step: Callable[[Tensor, Tensor], Tensor],
    texts: int,
    *,
    start: int,
    end: int,
    beams: int,
    max_length: int,
    min_length: int = 0,
    length_penalty: float = 1.0,
    banned: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> list[list[int]]:
    """Write the likeliest text for each of I sources, keeping the K likeliest beginnings of each.

    A text's score is the sum of its tokens' log-probabilities, its end token's included, over the number of these
    tokens to the power of ``length_penalty``. A text of ``max_length`` tokens may lack its end. The search of a source
    is over when nothing that goes on from its beginnings can win any more. With as many beams as there are beginnings,
    it finds the best text of all.

    Args:
        step: from the last token of each of I * K rows, and the row before that each of them goes on from, both int64
            [I * K], to the log-probabilities of what follows [I * K, V]. At first all rows are alike.
        texts: I, how many texts are wanted.
        start: start token.
        end: end token.
        beams: K.
        max_length: most tokens of a text, its end token included.
        min_length: fewest tokens of a text, its end token not counted.
        length_penalty: 0 compares sums; 1 compares means, which favours longer texts.
        banned: tokens that no text has.
        device: where `step` computes.

    Returns:
        The tokens of each text, without start and end.

    Raises:
        ConfigError: there is no beam, or no room for a token.
    """
    if beams < 1 or max_length < 1:
        raise ConfigError(f"a beam search needs a beam and a token, got {beams} and {max_length}")
    best: list[tuple[float, list[int]]] = [(-math.inf, [])] * texts
    written = torch.zeros(texts, beams, 0, dtype=torch.int64, device=device)
    sums = torch.full((texts, beams), -math.inf, device=device)
    sums[:, 0] = 0.0  # all beams of a source begin alike, so one of them counts
    tokens = torch.full((texts * beams,), start, dtype=torch.int64, device=device)
    first = torch.arange(texts, device=device)[:, None] * beams  # [I, 1] first row of each source
    parents = torch.arange(texts * beams, device=device)
    for length in range(1, max_length + 1):
        logs = step(tokens, parents).float()  # [I * K, V]
        logs[:, list(banned)] = -math.inf
        total = sums[:, :, None] + logs.view(texts, beams, -1)  # [I, K, V]
        if length > min_length:
            _keep_best(best, total[:, :, end] / length**length_penalty, written)
        total[:, :, end] = -math.inf
        vocabulary = total.shape[2]
        found = total.flatten(1).topk(beams, dim=1)  # of [I, K * V]
        sums = found.values
        beam, token = found.indices // vocabulary, found.indices % vocabulary  # [I, K]
        written = torch.cat([written.gather(1, beam[:, :, None].expand(-1, -1, length - 1)), token[:, :, None]], dim=2)
        if length == max_length:
            _keep_best(best, sums / length**length_penalty, written)
        elif _decided(best, sums[:, 0], max_length**length_penalty):
            break
        tokens, parents = token.flatten(), (first + beam).flatten()
    return [text for _, text in best]


def _keep_best(best: list[tuple[float, list[int]]], scores: Tensor, texts: Tensor) -> None:
    """Replace the best text of each source by the best of [I, K, T] whose scores are [I, K], where that is better."""
    highest = scores.max(dim=1)
    for number, (score, beam) in enumerate(zip(highest.values.tolist(), highest.indices.tolist(), strict=True)):
        if score > best[number][0]:
            best[number] = (score, texts[number, beam].tolist())


def _decided(best: Sequence[tuple[float, list[int]]], sums: Tensor, divisor: float) -> bool:
    """Whether no beginning can still win: its sum [I] only falls, and is divided by this at most."""
    return all(score >= bound for (score, _), bound in zip(best, (sums / divisor).tolist(), strict=True))
