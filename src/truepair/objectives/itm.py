"""Image-text matching (ITM): which pairs of a batch are shown to the fusion encoder, and the loss on them.

All selection happens in log space with ``-inf`` on what is not allowed. A probability that underflows therefore cannot
make the true pair look like a candidate, and an empty row is reported as such; it never crashes and never invents a
negative.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.errors import ConfigError
from truepair.relations.pairs import PairSet

Sampling = Literal["top1", "multinomial"]


@dataclass(frozen=True)
class MatchingConfig:
    """How ITM negatives are drawn.

    Attributes:
        sampling: "top1" takes the most similar candidate (GRIT-VLP, MAFA); "multinomial" draws candidates in
            proportion to the softmax of the scores (ALBEF).
        hard_fraction: Share of anchors whose negative is hard; the others get a random allowed one. ITM that sees only
            top-1 negatives does not start from random weights: begin below 1 or warm-start from ITC.
    """

    sampling: Sampling = "top1"
    hard_fraction: float = 1.0

    def __post_init__(self) -> None:
        if self.sampling not in ("top1", "multinomial"):
            raise ConfigError(f"itm.sampling is {self.sampling!r}; use 'top1' or 'multinomial'.")
        if not 0.0 <= self.hard_fraction <= 1.0:
            raise ConfigError(f"itm.hard_fraction is {self.hard_fraction}; use a number from 0 to 1.")


@dataclass(frozen=True)
class HardNegatives:
    """The hardest and second-hardest candidates of each anchor; -1 where no candidate is left.

    Attributes:
        i2t: Text rows per image, hardest first, int64 [B, 2].
        t2i: Image rows per text, hardest first, int64 [B, 2].
    """

    i2t: Tensor  # [B, 2]
    t2i: Tensor  # [B, 2]

    def on_host(self) -> "HardNegatives":
        """The same on the host; a device is waited for once."""
        return HardNegatives(*torch.stack([self.i2t, self.t2i]).cpu())


@dataclass(frozen=True)
class MatchingPairs:
    """The (image row, text row) pairs that ITM reads, in one fixed shape [R].

    Rows without a pair have ``valid`` False and point at an existing pair, so that gathering them needs no branch.

    Attributes:
        images: Image row of each pair, int64 [R].
        texts: Text row of each pair, int64 [R].
        labels: 1 = match, 0 = no match, int64 [R].
        valid: Whether the pair counts in the loss, bool [R].
    """

    images: Tensor  # [R]
    texts: Tensor  # [R]
    labels: Tensor  # [R]
    valid: Tensor  # [R]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def counted(self) -> "MatchingPairs":
        """The rows that count [V], all of them valid."""
        rows = self.valid.nonzero()[:, 0]
        return MatchingPairs(*(part[rows] for part in (self.images, self.texts, self.labels, self.valid)))

    def of_images(self, rows: slice) -> "MatchingPairs":
        """The rows of some images, counted from the first of these."""
        here = ((self.images >= rows.start) & (self.images < rows.stop)).nonzero()[:, 0]
        images, texts, labels, valid = (part[here] for part in (self.images, self.texts, self.labels, self.valid))
        return MatchingPairs(images - rows.start, texts, labels, valid)

    def adding(self, matches: PairSet) -> "MatchingPairs":
        """These rows, and further matches [B, B] behind them."""
        return MatchingPairs(
            images=torch.cat([self.images, matches.rows]),
            texts=torch.cat([self.texts, matches.columns]),
            labels=torch.cat([self.labels, torch.ones_like(matches.rows)]),
            valid=torch.cat([self.valid, torch.ones_like(matches.rows, dtype=torch.bool)]),
        )


def choose_candidates(
    scores: Tensor,
    allowed: Tensor,
    config: MatchingConfig | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Hardest and second-hardest allowed candidate of every anchor (one direction; batches may differ in size).

    Multinomial draws are without replacement, by the Gumbel trick: one noise tensor, no loop, no wait for the device.
    Ties go to the lower index.

    Args:
        scores: Similarity logits (already divided by the temperature) [A, C].
        allowed: True where a candidate may be used as a negative, bool [A, C].
        config: How to draw; top-1 when absent.
        generator: Source of randomness on the device of ``scores``; needed for multinomial draws and hard_fraction < 1.

    Returns:
        Candidate indices, hardest first, -1 where none is left, int64 [A, 2].

    Raises:
        ValueError: If shapes differ, or randomness is asked for without a generator.
    """
    config = config or MatchingConfig()
    if scores.shape != allowed.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and allowed {tuple(allowed.shape)} must have the same shape.")
    keys = _ranking_keys(scores.detach(), config, generator)
    remaining = allowed
    chosen = []
    for _ in range(2):
        if scores.shape[1] == 0:
            chosen.append(scores.new_full((scores.shape[0],), -1, dtype=torch.long))
            continue
        best = keys.masked_fill(~remaining, -torch.inf).max(dim=1).indices.unsqueeze(1)  # [A, 1]
        chosen.append(torch.where(remaining.gather(1, best), best, -1).squeeze(1))
        remaining = remaining.scatter(1, best, False)
    return torch.stack(chosen, dim=1)  # [A, 2]


def hardest_negatives(
    scores: Tensor,
    allowed: Tensor | None = None,
    config: MatchingConfig | None = None,
    generator: torch.Generator | None = None,
) -> HardNegatives:
    """Hardest negatives of a batch of pairs in both directions; the pair itself is never one.

    Args:
        scores: Similarity logits of images (rows) and texts (columns) [B, B].
        allowed: False for pairs known or suspected to match: same image id, same caption text, masked or relabelled
            relations. bool [B, B]; the diagonal is excluded in any case.
        config: How to draw; top-1 when absent.
        generator: As in :func:`choose_candidates`.

    Returns:
        The hardest and second-hardest texts per image and images per text.
    """
    own = torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    allowed = ~own if allowed is None else allowed & ~own
    return HardNegatives(
        i2t=choose_candidates(scores, allowed, config, generator),
        t2i=choose_candidates(scores.T, allowed.T, config, generator),
    )


def matching_pairs(negatives: HardNegatives, matches: PairSet | None = None) -> MatchingPairs:
    """The 3B rows of ALBEF's ITM: every pair, a negative image for every text, a negative text for every image.

    Args:
        negatives: From :func:`hardest_negatives`; the first column is used.
        matches: Undeclared pairs known to match, as (image row, text row) cells [B, B]: further rows with label 1.

    Returns:
        Pairs in the order positives, text side, image side, matches; R = 3B + number of matches.
    """
    hardest_image, hardest_text = negatives.t2i[:, 0], negatives.i2t[:, 0]  # [B], [B]
    own = torch.arange(len(hardest_image), device=hardest_image.device)
    no_image, no_text = hardest_image < 0, hardest_text < 0
    more_images, more_texts = (own[:0], own[:0]) if matches is None else (matches.rows, matches.columns)
    match, no_match = torch.ones_like(own), torch.zeros_like(own)
    return MatchingPairs(
        images=torch.cat([own, torch.where(no_image, own, hardest_image), own, more_images]),
        texts=torch.cat([own, own, torch.where(no_text, own, hardest_text), more_texts]),
        labels=torch.cat([match, no_match, no_match, torch.ones_like(more_images)]),
        valid=torch.cat([match.bool(), ~no_image, ~no_text, torch.ones_like(more_images).bool()]),
    )


def itm_loss(logits: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Two-class cross-entropy, averaged over the valid pairs; 0 (with a gradient of 0) when there is none.

    Args:
        logits: ITM logits, index 1 = match [R, 2].
        labels: 1 = match, 0 = no match, int64 [R].
        valid: Which pairs count, bool [R]; all when absent.

    Returns:
        A scalar in nats, float32 or wider.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    losses = F.cross_entropy(logits, labels, reduction="none")  # [R]
    weight = torch.ones_like(losses) if valid is None else valid.to(losses.dtype)
    return (losses * weight).sum() / weight.sum().clamp(min=1.0)


def _ranking_keys(scores: Tensor, config: MatchingConfig, generator: torch.Generator | None) -> Tensor:
    """Keys whose row-wise order is the order of choice, always finite, so that allowed beats ``-inf`` [A, C]."""
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    keys = scores.nan_to_num()
    if config.sampling == "top1" and config.hard_fraction == 1.0:
        return keys
    if generator is None:
        raise ValueError("Random negatives need a generator; pass generator=torch.Generator().manual_seed(...).")
    exponential = torch.empty_like(keys).exponential_(generator=generator)
    gumbel = -exponential.clamp(min=torch.finfo(keys.dtype).tiny).log()  # [A, C]
    hard = keys + gumbel if config.sampling == "multinomial" else keys
    coin = torch.rand(len(keys), 1, dtype=keys.dtype, device=keys.device, generator=generator)
    return torch.where(coin < config.hard_fraction, hard, gumbel)
