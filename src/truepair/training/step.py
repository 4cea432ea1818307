"""One pre-training step: a batch in, the weighted sum of ITC, ITM and MLM out."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from truepair.data.collate import PairBatch
from truepair.models.albef import AlbefModel, Encoded
from truepair.models.fusion import ImageKeysValues
from truepair.objectives.contrastive import contrastive_loss
from truepair.objectives.counter import sample_keys
from truepair.objectives.direction import Direction
from truepair.objectives.masking import IGNORED, MaskingConfig, TokenMasker, mlm_loss
from truepair.objectives.matching import MatchingConfig, hardest_negatives, itm_loss, matching_pairs
from truepair.relations.identity import same_pair
from truepair.relations.pairs import PairSet
from truepair.training.moment import Moment
from truepair.training.towers import Towers
from truepair.training.training_step import StepOutput, TrainingStep


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


class PretrainStep(TrainingStep):
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
        super().__init__(model)
        self.towers = towers
        self.masker = masker
        self.config = config
        self.seed = seed

    def forward(self, batch: PairBatch, moment: Moment) -> StepOutput:
        """Compute the losses of a batch: ``itc``, and ``itm`` and ``mlm`` once they started.

        Args:
            batch: B pairs.
            moment: Where the run stands.
        """
        epoch = moment.epoch
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
        losses = {"loss": total, **losses, "temperature": temperature}
        return StepOutput(losses, image.feature.detach(), text.feature.detach())

    def after_update(self, moment: Moment) -> None:
        """Keep the temperature in its range."""
        self.model.clamp_temperature_()

    def _fused_losses(
        self, batch: PairBatch, epoch: int, image: Encoded, text: Encoded, logits: Tensor, known: Tensor
    ) -> dict[str, Tensor]:
        """ITM and MLM; image keys and values are computed once per image for the rows of both."""
        with_itm = self.config.itm_weight > 0 and epoch >= self.config.itm_start_epoch
        with_mlm = self.config.mlm_weight > 0 and epoch >= self.config.mlm_start_epoch
        if not with_itm and not with_mlm:
            return {}
        keys_values = self.model.image_keys_values(image.states)
        losses = {}
        if with_itm:
            losses["itm"] = self._matching_loss(batch, image, text, logits, known, keys_values)
        if with_mlm:
            losses["mlm"] = self._masking_loss(batch, epoch, keys_values)
        return losses

    def _matching_loss(
        self,
        batch: PairBatch,
        image: Encoded,
        text: Encoded,
        logits: Tensor,
        known: Tensor,
        keys_values: ImageKeysValues,
    ) -> Tensor:
        pairs = matching_pairs(hardest_negatives(logits, ~known, self.config.matching, self._generator(logits)))
        fused = self.model.fuse(
            text.states[pairs.texts], batch.attention_mask[pairs.texts], keys_values, pairs.images, cls_only=True
        )  # [3B, 1, D]
        matched = self.model.match(fused, image.feature[pairs.images], text.feature[pairs.texts])  # [3B, 2]
        return itm_loss(matched, pairs.labels, pairs.valid)

    def _masking_loss(self, batch: PairBatch, epoch: int, keys_values: ImageKeysValues) -> Tensor:
        keys = sample_keys(self.seed, epoch, batch.caption_id)
        masked_ids, labels = self.masker(batch.input_ids, batch.attention_mask, keys)
        states = self.towers.text_states(masked_ids, batch.attention_mask)
        fused = self.model.fuse(states, batch.attention_mask, keys_values)  # [B, L, D]
        predicted = labels != IGNORED  # [B, L]
        return mlm_loss(self.model.predict_tokens(fused, predicted), labels[predicted])

    def _generator(self, like: Tensor) -> torch.Generator:
        """A generator on the batch's device, seeded from the global one, which the loop seeds by the step."""
        seed = int(torch.randint(2**62, ()))
        return torch.Generator(like.device).manual_seed(seed)
