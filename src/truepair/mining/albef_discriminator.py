"""Our own checkpoint as con-D: the ITM head of a frozen ALBEF."""

from pathlib import Path

import torch
from torch import Tensor, nn

from truepair.data.collate import PairBatch
from truepair.data.preprocessing import Preprocessing
from truepair.errors import CheckpointError
from truepair.mining.albef_views import BatchView, PlainView, View
from truepair.mining.discriminator_config import DiscriminatorConfig
from truepair.mining.input_keys import caption_input_key, image_input_key
from truepair.mining.pair_reader import PairReader, Read
from truepair.mining.plain_images import PlainImages
from truepair.mining.run_inputs import RunInputs
from truepair.models.albef import AlbefModel
from truepair.models.albef_checkpoint import load_albef
from truepair.models.fingerprint import combined_key, encoder_fingerprint
from truepair.models.frozen_captions import CaptionStates
from truepair.models.frozen_images import ImageStates
from truepair.models.image_transform import image_transform


class AlbefDiscriminator(PairReader):
    """Match probability by the ITM head.

    Args:
        model: the judge; it is put into evaluation mode and gets no gradient.
        view: what it reads of a batch.
        name: for logs.
        fingerprint: of the weights, the preprocessing and the view.
        pairs_at_once: pairs that go through the fusion encoder together.
    """

    def __init__(
        self, model: AlbefModel, view: View, *, name: str, fingerprint: str, pairs_at_once: int = 1024
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.view = view
        self.name = name
        self.fingerprint = fingerprint
        self.repeatable = view.repeatable
        self.pairs_at_once = pairs_at_once

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    def encode(self, batch: PairBatch, image_rows: Tensor, text_rows: Tensor) -> Read:
        """Encode images and captions, see ``PairReader.encode``; image keys and values are computed once per image."""
        model = self.model
        image_states = self.view.image_states(batch, image_rows)
        text_states, mask = self.view.text_states(batch, text_rows)
        keys_values = model.image_keys_values(image_states)
        with_features = model.config.itm_product
        image_features = model.project_image(image_states) if with_features else None
        text_features = model.project_text(text_states, mask) if with_features else None

        def read(image: Tensor, text: Tensor) -> Tensor:
            """The ITM head's opinion."""
            fused = model.fuse(text_states[text], mask[text], keys_values, image, cls_only=True)  # [p, 1, D]
            logits = model.match(fused, _some(image_features, image), _some(text_features, text))  # [p, 2]
            probabilities: Tensor = (logits[:, 1] - logits[:, 0]).float().sigmoid()
            return probabilities

        return read


def open_albef(config: DiscriminatorConfig, run: RunInputs, device: torch.device | str) -> AlbefDiscriminator:
    """Open a folder that ``truepair`` wrote: model, tokenizer and preprocessing.

    Raises:
        CheckpointError: there is none, it is damaged, or its ITM head was never trained.
        ConfigError: the judge cannot read the batches as they are, and ``view`` is "batch".
    """
    folder = Path(config.checkpoint)
    own = Preprocessing.load(folder)
    model = load_albef(folder).to(device)
    if not model.config.itm_trained:
        raise CheckpointError(
            f"{folder} cannot judge: its run did not train ITM; see objectives.itm.weight and start_epoch in its recipe"
        )
    view: View
    if config.view == "batch":
        view = BatchView(model, own, run.preprocessing, None if run.model is None else run.model.image_encoder)
    else:
        states, captions = _shared_states(model, own, run)
        transform = image_transform(own.transform, model.image_encoder, train=False)
        images = PlainImages(run.table, transform) if states is None else states
        view = PlainView(model, images, own.collator(), captions)
    fingerprint = combined_key(
        model=encoder_fingerprint(model), images=image_input_key(own), captions=caption_input_key(own), view=config.view
    )
    return AlbefDiscriminator(
        model, view, name=f"albef {folder}", fingerprint=fingerprint, pairs_at_once=config.pairs_at_once
    )


def _shared_states(
    model: AlbefModel, own: Preprocessing, run: RunInputs
) -> tuple[ImageStates | None, CaptionStates | None]:
    """The run's caches, as far as they hold what the judge's own encoders would compute."""
    if run.model is None:
        return None, None
    student = run.preprocessing
    same_images = not run.pooled and image_input_key(own) == image_input_key(student)
    same_captions = caption_input_key(own) == caption_input_key(student)
    return (
        run.image_cache if same_images and _equal(run.model.image_encoder, model.image_encoder) else None,
        run.caption_cache if same_captions and _equal(run.model.text_encoder, model.text_encoder) else None,
    )


def _equal(one: nn.Module, other: nn.Module) -> bool:
    return encoder_fingerprint(one) == encoder_fingerprint(other)


def _some(features: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if features is None else features[rows]
