"""Masked language modelling (MLM): which tokens are hidden, and what stands in their place.

The masks are drawn from counter-based randomness, so the mask of a sample depends on its key alone: not on the worker,
the rank, or the other samples of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.devices import sent
from truepair.errors import ConfigError
from truepair.randomness import keyed_integers, keyed_uniform

IGNORED = -100
"""Label of a token that is not predicted (the ``ignore_index`` of cross-entropy)."""


@dataclass(frozen=True)
class MaskingConfig:
    """How tokens are masked (BERT's scheme).

    Attributes:
        probability: Chance of a token to be predicted: 0.15 in ALBEF, 0.5 in GRIT-VLP and MAFA.
        mask_share: Share of the predicted tokens that become [MASK].
        random_share: Share that becomes a random ordinary token; the rest stays as it is.
        at_least_one: Predict one token in rows where chance picked none.
    """

    probability: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    at_least_one: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ConfigError(f"mlm.probability is {self.probability}; use a number from 0 to 1.")
        if self.mask_share < 0 or self.random_share < 0 or self.mask_share + self.random_share > 1.0 + 1e-9:
            raise ConfigError("mlm.mask_share and mlm.random_share must not be negative, nor exceed 1 together.")


class TokenMasker:
    """Masks batches of token ids of one vocabulary.

    Example:
        >>> masker = TokenMasker(mask_id=103, special_ids=[0, 100, 101, 102, 103], vocab_size=30522)
        >>> ids, labels = masker(input_ids, attention_mask, sample_keys(seed, epoch, sample_ids))  # doctest: +SKIP
    """

    def __init__(
        self, mask_id: int, special_ids: Sequence[int], vocab_size: int, config: MaskingConfig | None = None
    ) -> None:
        """Remember the vocabulary.

        Args:
            mask_id: Id of [MASK].
            special_ids: Ids that are never predicted and never put in as random tokens: [PAD], [CLS], [SEP], ...
            vocab_size: Number of token ids.
            config: Shares and probability.

        Raises:
            ConfigError: If no ordinary token is left.
        """
        self.config = config or MaskingConfig()
        self.mask_id = mask_id
        is_special = torch.zeros(vocab_size, dtype=torch.bool)
        is_special[[mask_id, *special_ids]] = True
        self.is_special = is_special  # [V]
        self.ordinary_ids = torch.nonzero(~is_special).squeeze(1)  # [V - specials]
        if len(self.ordinary_ids) == 0:
            raise ConfigError(f"All {vocab_size} token ids are special; MLM needs ordinary tokens in the vocabulary.")

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Mask a batch.

        Args:
            input_ids: Token ids [B, L].
            attention_mask: 0 on padding [B, L].
            keys: One key per row, from ``sample_keys(seed, epoch, sample id)``, int64 [B]. Rows that repeat a caption
                (converted pairs) get a mask of their own by adding the image id to the key.

        Returns:
            Masked ids [B, L] and labels [B, L]: the original id where a token is predicted, -100 elsewhere.
        """
        length = input_ids.shape[1]
        self.is_special = sent(self.is_special, input_ids.device)
        maskable = attention_mask.bool() & ~self.is_special[input_ids]  # [B, L]
        chance = keyed_uniform(keys, length).masked_fill(~maskable, torch.inf)  # [B, L]
        predicted = chance < self.config.probability
        if self.config.at_least_one and length:
            lowest = chance == chance.amin(dim=1, keepdim=True)
            predicted = predicted | (lowest & maskable & ~predicted.any(dim=1, keepdim=True))
        fate = keyed_uniform(keys, length, stream=1)
        hidden = predicted & (fate < self.config.mask_share)
        replaced = predicted & ~hidden & (fate < self.config.mask_share + self.config.random_share)
        masked = torch.where(hidden, self.mask_id, torch.where(replaced, self._random_ids(keys, length), input_ids))
        return masked, torch.where(predicted, input_ids, IGNORED)

    def _random_ids(self, keys: Tensor, length: int) -> Tensor:
        """One ordinary token per position [B, L]."""
        self.ordinary_ids = sent(self.ordinary_ids, keys.device)
        return self.ordinary_ids[keyed_integers(keys, length, len(self.ordinary_ids), stream=2)]


def mlm_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None, alpha: float = 0.0) -> Tensor:
    """Cross-entropy of the predicted tokens, optionally mixed with a teacher's soft targets (ALBEF's distillation).

    Args:
        logits: Vocabulary logits at any set of positions [P, V].
        labels: Token ids, -100 where nothing is predicted [P].
        teacher_logits: Logits of the momentum model at the same positions [P, V].
        alpha: Weight of the teacher: (1 - alpha) * one-hot + alpha * teacher.

    Returns:
        A scalar in nats per predicted token; 0 when no token is predicted.
    """
    half = logits.dtype in (torch.float16, torch.bfloat16)
    log_p = F.log_softmax(logits, dim=-1, dtype=torch.float32 if half else logits.dtype)  # [P, V]
    predicted = labels != IGNORED
    losses = -log_p.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)  # [P]
    if teacher_logits is not None and alpha > 0:
        teacher = F.softmax(teacher_logits.detach(), dim=-1, dtype=log_p.dtype)
        losses = (1 - alpha) * losses - alpha * (teacher * log_p).sum(dim=-1)
    return (losses * predicted).sum() / predicted.sum().clamp(min=1)
