"""What an ALBEF judge reads of a batch: the student's very inputs, or the plain image and caption."""

from typing import Protocol

from torch import Tensor

from truepair.data.collate import PairBatch, PairCollator
from truepair.data.preprocessing import Preprocessing
from truepair.errors import ConfigError
from truepair.mining.plain_images import PlainImages
from truepair.models.albef import AlbefModel
from truepair.models.encoder_base import ImageEncoder
from truepair.models.frozen_captions import CaptionStates
from truepair.models.frozen_images import ImageStates
from truepair.models.image_transform import pixel_statistics


class View(Protocol):
    """States of some images and captions of a batch, by the judge's encoders.

    Attributes:
        repeatable: whether the same image and caption always look the same.
    """

    repeatable: bool

    def image_states(self, batch: PairBatch, rows: Tensor) -> Tensor:
        """States of the images of some rows, [U, N, W] on the judge's device."""
        ...

    def text_states(self, batch: PairBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """States of the captions of some rows [U, L, D], and their mask [U, L]."""
        ...


class BatchView:
    """The student's own pixels and tokens, augmentation included, as in the MAFA program.

    Args:
        model: the judge.
        own: the judge's preprocessing.
        student: the student's, which the batch went through.
        encoder: the student's image encoder, whose pixel statistics "encoder" normalisation takes.

    Raises:
        ConfigError: the two differ in how tokens or pixel values are to be read.
    """

    repeatable = False

    def __init__(
        self, model: AlbefModel, own: Preprocessing, student: Preprocessing, encoder: ImageEncoder | None = None
    ) -> None:
        statistics = pixel_statistics(own.transform, model.image_encoder)
        for what, one, other in (
            ("tokenizer", own.tokenizer.get_vocab(), student.tokenizer.get_vocab()),
            ("add_sep", own.add_sep, student.add_sep),
            ("normalise", own.normalise, student.normalise),
            ("image normalisation", statistics, pixel_statistics(student.transform, encoder)),
        ):
            if one != other:
                raise ConfigError(f"ecm.discriminator.view: judge and student differ in their {what}; set it to plain")
        self.model = model

    def image_states(self, batch: PairBatch, rows: Tensor) -> Tensor:
        """States of the augmented images.

        Raises:
            ConfigError: the batch has no pixels, since the student's image states come from a cache.
        """
        if batch.pixel_values is None:
            raise ConfigError(
                "ecm.discriminator.view is batch, but the student's images come from a cache; set it to plain"
            )
        return self.model.image_states(batch.pixel_values[rows].to(self.model.device))

    def text_states(self, batch: PairBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """States of the batch's tokens."""
        mask = batch.attention_mask[rows]
        length = int(mask.sum(dim=1).max())  # padding costs as much as words
        ids, mask = (part[:, :length].to(self.model.device) for part in (batch.input_ids[rows], mask))
        return self.model.text_states(ids, mask), mask


class PlainView:
    """The unaugmented image and the caption's text, through the judge's own preprocessing.

    Args:
        model: the judge.
        images: reads pixels by row; or states of the judge's own image encoder, row by row.
        collator: the judge's tokenization.
        captions: token states of the judge's own text encoder, under this tokenization; None computes them.
    """

    repeatable = True

    def __init__(
        self,
        model: AlbefModel,
        images: PlainImages | ImageStates,
        collator: PairCollator,
        captions: CaptionStates | None = None,
    ) -> None:
        self.model = model
        self.images = images
        self.collator = collator
        self.captions = captions

    def image_states(self, batch: PairBatch, rows: Tensor) -> Tensor:
        """States of the plain images."""
        wanted = batch.source_index[rows].cpu()
        if isinstance(self.images, ImageStates):
            return self.images[wanted].to(self.model.device)
        return self.model.image_states(self.images(wanted).to(self.model.device))

    def text_states(self, batch: PairBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """States of the captions as their source states them."""
        texts = [batch.captions[row] for row in rows.tolist()]
        if self.captions is not None:
            states, mask = self.captions.gather(texts)
            return states.to(self.model.device), mask.to(self.model.device)
        ids, mask = (part.to(self.model.device) for part in self.collator.encode(texts))
        return self.model.text_states(ids, mask), mask
