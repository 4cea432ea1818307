"""BLIP's ITM head as con-D."""

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval, PreTrainedTokenizerBase

from truepair.data.collate import PairBatch
from truepair.mining.discriminator_config import DiscriminatorConfig
from truepair.mining.pair_reader import PairReader, Read
from truepair.mining.plain_images import PlainImages
from truepair.mining.run_inputs import RunInputs
from truepair.mining.transformers_inputs import load_model, load_part, processor_key, processor_transform
from truepair.models.fingerprint import combined_key, encoder_fingerprint


class BlipDiscriminator(PairReader):
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

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    def encode(self, batch: PairBatch, image_rows: Tensor, text_rows: Tensor) -> Read:
        """Encode images and tokenize captions, see ``PairReader.encode``."""
        pixels = self.images(batch.source_index[image_rows].cpu()).to(self.device)
        states = self.model.vision_model(pixel_values=pixels).last_hidden_state  # [U, N, W]
        captions = [batch.captions[row] for row in text_rows.tolist()]
        tokens = self.tokenizer(
            captions, padding=True, truncation=True, max_length=self._room(), return_tensors="pt"
        ).to(self.device)

        def read(image: Tensor, text: Tensor) -> Tensor:
            """The ITM head's opinion."""
            fused = self.model.text_encoder(
                input_ids=tokens["input_ids"][text],
                attention_mask=tokens["attention_mask"][text],
                encoder_hidden_states=states[image],
                encoder_attention_mask=torch.ones(len(image), states.shape[1], dtype=torch.long, device=self.device),
            ).last_hidden_state  # [p, L, D]
            probabilities: Tensor = self.model.itm_head(fused[:, 0]).float().softmax(dim=1)[:, 1]
            return probabilities

        return read

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
