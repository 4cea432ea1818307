"""One pre-training step: a batch in, the weighted sum of ITC, ITM and MLM out."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from truepair.data.collate import PairBatch
from truepair.models.albef import AlbefModel, Encoded
from truepair.objectives.contrastive import contrastive_loss
from truepair.objectives.counter import sample_keys
from truepair.objectives.direction import Direction
from truepair.objectives.masking import IGNORED, MaskingConfig, TokenMasker, mlm_loss
from truepair.objectives.matching import MatchingConfig, hardest_negatives, itm_loss, matching_pairs
from truepair.relations.identity import same_pair
from truepair.relations.pairs import PairSet
from truepair.training.towers import Towers


@dataclass(frozen=True, kw_only=True)
class ObjectivesConfig:
    """What a step trains.

    Attributes:
        itc_weight: weight of the contrastive loss.
        itm_weight: weight of image-text matching.
        itm_start_epoch: first epoch with ITM; until then the fusion encoder rests, and a step takes a fraction of the
            time.
        matching: how ITM negatives are drawn.
        mlm_weight: weight of masked language modelling.
        mlm_start_epoch: first epoch with MLM.
        masking: which tokens are hidden.
    """

    itc_weight: float = 1.0
    itm_weight: float = 1.0
    itm_start_epoch: int = 0
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    mlm_weight: float = 1.0
    mlm_start_epoch: int = 0
    masking: MaskingConfig = field(default_factory=MaskingConfig)


@dataclass(frozen=True)
class FusionRows:
    """Rows for the fusion encoder; all objectives of a step go through it together.

    Attributes:
        states: text states [R, L, D].
        mask: 1 on tokens [R, L].
        images: image of each row, int64 [R].
    """

    states: Tensor
    mask: Tensor
    images: Tensor


class PretrainStep(nn.Module):
    """Losses of one batch of pairs.

    Pairs of one image id or one caption text are never negatives of each other: extra positives in ITC, left out of
    ITM.

    Args:
        model: the model to train.
        towers: image and text states of a batch, computed or from a cache of frozen ones.
        masker: hides tokens for MLM.
        config: which objectives, and how much of each.
        seed: seed of the run.
    """

    def __init__(
        self, model: AlbefModel, towers: Towers, masker: TokenMasker, config: ObjectivesConfig, *, seed: int
    ) -> None:
        super().__init__()
        self.model = model
        self.towers = towers
        self.masker = masker
        self.config = config
        self.seed = seed

    def forward(self, batch: PairBatch, epoch: int) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            batch: B pairs.
            epoch: epoch, counted from 0.

        Returns:
            Scalars: ``loss`` (to be minimised), and what it is made of: ``itc``, and ``itm`` and ``mlm`` once they
                started.
        """
        image = self.towers.encode_image(batch, epoch)
        text = self.towers.encode_text(batch)
        known = same_pair(batch.image_id, batch.caption_key)  # [B, B]
        temperature = self.model.temperature
        positives = Direction(positives=PairSet.from_dense(known))
        losses = {"itc": contrastive_loss(image.feature, text.feature, temperature, rows=positives).loss}
        logits = (image.feature @ text.feature.T / temperature).detach()  # [B, B]
        losses |= self._fused_losses(batch, epoch, image, text, logits, known)
        weights = {"itc": self.config.itc_weight, "itm": self.config.itm_weight, "mlm": self.config.mlm_weight}
        total = sum((weights[name] * loss for name, loss in losses.items()), torch.zeros((), device=logits.device))
        return {"loss": total, **losses, "temperature": temperature}

    def _fused_losses(
        self, batch: PairBatch, epoch: int, image: Encoded, text: Encoded, logits: Tensor, known: Tensor
    ) -> dict[str, Tensor]:
        """ITM and MLM, from one pass of the fusion encoder over the rows of both."""
        with_itm = self.config.itm_weight > 0 and epoch >= self.config.itm_start_epoch
        with_mlm = self.config.mlm_weight > 0 and epoch >= self.config.mlm_start_epoch
        if not with_itm and not with_mlm:
            return {}
        rows = []
        if with_itm:
            pairs = matching_pairs(hardest_negatives(logits, ~known, self.config.matching, self._generator(logits)))
            rows.append(FusionRows(text.states[pairs.texts], batch.attention_mask[pairs.texts], pairs.images))
        if with_mlm:
            keys = sample_keys(self.seed, epoch, batch.caption_id)
            masked_ids, labels = self.masker(batch.input_ids, batch.attention_mask, keys)
            states = self.towers.text_states(masked_ids, batch.attention_mask)
            own = torch.arange(len(states), device=states.device)
            rows.append(FusionRows(states, batch.attention_mask, own))
        fused = self._fuse(rows, image.states)
        losses = {}
        if with_itm:
            matched = self.model.match(fused[0], image.feature[pairs.images], text.feature[pairs.texts])
            losses["itm"] = itm_loss(matched, pairs.labels, pairs.valid)
        if with_mlm:
            predicted = labels != IGNORED  # [B, L]
            losses["mlm"] = mlm_loss(self.model.predict_tokens(fused[-1], predicted), labels[predicted])
        return losses

    def _fuse(self, rows: list[FusionRows], image_states: Tensor) -> list[Tensor]:
        """Fuse all rows at once, image keys and values computed once per image; returns the states of each part."""
        fused = self.model.fuse(
            torch.cat([part.states for part in rows]),
            torch.cat([part.mask for part in rows]),
            self.model.image_keys_values(image_states),
            torch.cat([part.images for part in rows]),
        )
        return list(fused.split([len(part.images) for part in rows]))

    def _generator(self, like: Tensor) -> torch.Generator:
        """A generator on the batch's device, seeded from the global one, which the loop seeds by the step."""
        seed = int(torch.randint(2**62, ()))
        return torch.Generator(like.device).manual_seed(seed)
