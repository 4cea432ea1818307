"""What a momentum model gives the losses: soft targets, consistency, and a queue of past features."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truepair.devices import sent
from truepair.objectives.contrastive import ContrastiveOutput, Direction, contrastive_loss
from truepair.relations.pairs import PairSet


@torch.no_grad()
def momentum_targets(
    queries: Tensor, keys: Tensor, temperature: Tensor | float, positives: PairSet, alpha: float
) -> Tensor:
    """Target rows of momentum distillation (ALBEF, section 3.3): (1 - alpha) * positives + alpha * momentum model.

    Args:
        queries: Momentum features of the anchors [A, D].
        keys: Momentum features of the candidates, the queue included [C, D].
        temperature: Positive scalar.
        positives: Positives of the anchors [A, C]; each anchor needs one.
        alpha: Weight of the momentum model's distribution.

    Returns:
        Rows that sum to 1, for ``Direction.soft`` [A, C].
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    teacher = F.softmax(queries.to(dtype) @ keys.to(dtype).T / temperature, dim=1)
    known = positives.normalised().to(teacher.device).dense()
    return teacher.mul_(alpha).add_(known.to(dtype), alpha=1.0 - alpha)


@torch.no_grad()
def momentum_labels(
    queries: Tensor,
    keys: Tensor,
    temperature: Tensor | float,
    bias: Tensor | float,
    positives: PairSet,
    alpha: float,
) -> Tensor:
    """The same for the sigmoid loss: labels (1 - alpha) * positives + alpha * sigmoid(logit of the momentum model).

    Args:
        queries: Momentum features of the anchors [A, D].
        keys: Momentum features of the candidates, the queue included [C, D].
        temperature: Positive scalar.
        bias: Scalar, added to the logits.
        positives: Positives of the anchors with their labels [A, C].
        alpha: Weight of the momentum model's word.

    Returns:
        Labels from 0 to 1, for ``Direction.soft`` [A, C].
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    teacher = torch.sigmoid(queries.to(dtype) @ keys.to(dtype).T / temperature + bias)
    return teacher.mul_(alpha).add_(positives.to(teacher.device).dense().to(dtype), alpha=1.0 - alpha)


def consistency_loss(queries: Tensor, keys: Tensor, temperature: Tensor | float) -> ContrastiveOutput:
    """Consistency loss of GRIT-VLP: each direction's target is the other direction's distribution, without gradient.

    Row b of image-to-text (image b over the texts) is drawn to row b of text-to-image (text b over the images).
    GRIT-VLP adds 0.2 of it to the contrastive loss; keys have no gradient in both.

    Args:
        queries: Features, L2-normalised [B, D].
        keys: Features of the partners [B, D].
        temperature: Positive scalar.

    Returns:
        The mean of both directions, and its parts.
    """
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        dtype = torch.promote_types(queries.dtype, torch.float32)
        logits = queries.to(dtype) @ keys.to(dtype).T / temperature  # [B, B]
        rows, columns = F.softmax(logits, dim=1), F.softmax(logits.T, dim=1)
    return contrastive_loss(
        queries,
        keys,
        temperature,
        rows=Direction(soft=columns),
        columns=Direction(soft=rows),
        key_gradient=False,
    )


class FeatureQueue(nn.Module):
    """The last ``size`` pairs of momentum features, with their ids.

    The ids travel with the features, so that an entry of the same image or the same caption is a positive instead of a
    negative. Only filled entries are candidates; batches of any size may come. The features are buffers, which move
    with the module; ids, and the number of pairs seen, stay on the host, where pairs are compared by them.

    Example:
        >>> keys = torch.cat([momentum_texts, queue.features("texts")])  # doctest: +SKIP
        >>> positives = queue.positives(image_ids, caption_keys)  # doctest: +SKIP
        >>> loss = contrastive_loss(images, keys, t, rows=Direction(positives), symmetric=False)  # doctest: +SKIP
        >>> queue.enqueue(momentum_images, momentum_texts, image_ids, caption_keys)  # doctest: +SKIP
    """

    images: Tensor  # [Q, D]
    texts: Tensor  # [Q, D]
    image_ids: Tensor  # [Q]
    caption_keys: Tensor  # [Q]
    seen: Tensor  # scalar, pairs enqueued so far

    def __init__(self, size: int, dim: int) -> None:
        """Make an empty queue.

        Args:
            size: Entries kept; ALBEF: 65536.
            dim: Feature dimension.
        """
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.zeros(size, dim))
        self.register_buffer("texts", torch.zeros(size, dim))
        self.image_ids = torch.zeros(size, dtype=torch.long)
        self.caption_keys = torch.zeros(size, dtype=torch.long)
        self.seen = torch.zeros((), dtype=torch.long)

    def __len__(self) -> int:
        return min(int(self.seen), self.size)

    def get_extra_state(self) -> dict[str, Tensor]:
        """What ``state_dict`` keeps beside the features."""
        return {"image_ids": self.image_ids, "caption_keys": self.caption_keys, "seen": self.seen}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`get_extra_state` gave."""
        for name, tensor in self.get_extra_state().items():
            tensor.copy_(state[name])

    def tensors(self) -> dict[str, Tensor]:
        """All state by name; what is saved of it is copied back into these."""
        return dict(self.named_buffers()) | self.get_extra_state()

    def features(self, kind: Literal["images", "texts"]) -> Tensor:
        """The filled entries [F, D]; concatenate or copy them before the next :meth:`enqueue`."""
        return {"images": self.images, "texts": self.texts}[kind][: len(self)]

    def positives(self, image_ids: Tensor, caption_keys: Tensor) -> PairSet:
        """Positives of a batch among [batch; queue]: its own pairs, and all entries of the same image or caption.

        Args:
            image_ids: Image id of each pair of the batch, int64 on the host [B].
            caption_keys: Key of each normalised caption, int64 [B].

        Returns:
            Cells of value 1 [B, B + F], ordered by row and column; the same for both directions.
        """
        filled = len(self)
        found = [
            _of_one_key(asked, torch.cat([asked, known[:filled]]))
            for asked, known in ((image_ids, self.image_ids), (caption_keys, self.caption_keys))
        ]
        rows, columns = (torch.cat(parts) for parts in zip(*found, strict=True))
        return PairSet(rows, columns, torch.ones(len(rows)), (len(image_ids), len(image_ids) + filled)).distinct()

    @torch.no_grad()
    def enqueue(self, images: Tensor, texts: Tensor, image_ids: Tensor, caption_keys: Tensor) -> None:
        """Replace the oldest entries by a batch; of a batch larger than the queue the last entries stay.

        Args:
            images: Momentum features [B, D].
            texts: Momentum features [B, D].
            image_ids: int64 [B].
            caption_keys: int64 [B].
        """
        count = len(images)
        kept = slice(max(count - self.size, 0), count)
        first = int(self.seen) + kept.start
        slots = torch.arange(first, first + kept.stop - kept.start) % self.size
        there = sent(slots, self.images.device)
        self.images[there] = images[kept].to(self.images.dtype)
        self.texts[there] = texts[kept].to(self.texts.dtype)
        self.image_ids[slots] = image_ids[kept]
        self.caption_keys[slots] = caption_keys[kept]
        self.seen += count


def _of_one_key(asked: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Places (among the asked [B], among the known [N]) of equal keys; no B x N comparison is made."""
    keys, order = asked.sort()
    first, last = torch.searchsorted(keys, known), torch.searchsorted(keys, known, right=True)  # [N] each
    columns = (last > first).nonzero()[:, 0]
    counts = (last - first)[columns]
    start = (first[columns] - counts.cumsum(0) + counts).repeat_interleave(counts)
    return order[start + torch.arange(len(start))], columns.repeat_interleave(counts)
