"""BLIP's ITM head as con-D."""

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval, PreTrainedTokenizerBase

from truepair.data.collate import PairBatch
from truepair.mining.discriminator_config import DiscriminatorConfig
from truepair.mining.plain_images import PlainImages
from truepair.mining.run_inputs import RunInputs
from truepair.mining.transformers_inputs import load_model, load_part, processor_key, processor_transform
from truepair.models.fingerprint import combined_key, encoder_fingerprint


class BlipDiscriminator:
    """Match probability by a frozen ``BlipForImageTextRetrieval`` (Li et al., ICML 2022), on plain images.

    Args:
        model: the judge; it is put into evaluation mode and gets no gradient.
        tokenizer: its own.
        images: reads images through its own processor.
        name: for logs.
        fingerprint: of weights and preprocessing.
        pairs_at_once: pairs that are fused together.
    """

    repeatable = True

    def __init__(
        self,
        model: BlipForImageTextRetrieval,
        tokenizer: PreTrainedTokenizerBase,
        images: PlainImages,
        *,
        name: str,
        fingerprint: str,
        pairs_at_once: int = 1024,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.images = images
        self.name = name
        self.fingerprint = fingerprint
        self.pairs_at_once = pairs_at_once

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities, see ``Discriminator.score``."""
        if not len(images):
            return torch.zeros(0, device=images.device)
        with torch.inference_mode():
            scores = self._score(batch, images, texts)
        return scores.clone()  # outside inference mode, so that autograd may keep it

    def _score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        device = self.model.device
        image_rows, image_of = images.unique(return_inverse=True)  # [U], [P]
        text_rows, text_of = texts.unique(return_inverse=True)  # [V], [P]
        pixels = self.images(batch.source_index[image_rows].cpu()).to(device)
        states = self.model.vision_model(pixel_values=pixels).last_hidden_state  # [U, N, W], once per image
        captions = [batch.captions[row] for row in text_rows.tolist()]
        tokens = self.tokenizer(
            captions, padding=True, truncation=True, max_length=self._room(), return_tensors="pt"
        ).to(device)
        parts = []
        for image, text in zip(
            *(rows.to(device).split(self.pairs_at_once) for rows in (image_of, text_of)), strict=True
        ):
            fused = self.model.text_encoder(
                input_ids=tokens["input_ids"][text],
                attention_mask=tokens["attention_mask"][text],
                encoder_hidden_states=states[image],
                encoder_attention_mask=torch.ones(len(image), states.shape[1], dtype=torch.long, device=device),
            ).last_hidden_state  # [p, L, D]
            parts.append(self.model.itm_head(fused[:, 0]).float().softmax(dim=1)[:, 1])
        return torch.cat(parts).to(images.device)

    def _room(self) -> int:
        """Most tokens of a caption."""
        most: int = self.model.config.text_config.max_position_embeddings
        return min(most, int(self.tokenizer.model_max_length))


def open_blip(config: DiscriminatorConfig, run: RunInputs, device: torch.device | str) -> BlipDiscriminator:
    """Open a folder or a name on the hub, with its own processor and tokenizer.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    model = load_model(BlipForImageTextRetrieval, config.checkpoint)
    processor = load_part(AutoImageProcessor, config.checkpoint)
    tokenizer = load_part(AutoTokenizer, config.checkpoint)
    return BlipDiscriminator(
        model.to(device),
        tokenizer,
        PlainImages(run.table, processor_transform(processor)),
        name=f"blip {config.checkpoint}",
        fingerprint=combined_key(model=encoder_fingerprint(model), inputs=processor_key(processor, tokenizer)),
        pairs_at_once=config.pairs_at_once,
    )
