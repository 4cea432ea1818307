"""Sentence encoders by name, and the token states of several of their layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from truepair.data.tokens import WholeTokenizer
from truepair.errors import CheckpointError
from truepair.loading import LOADING_ERRORS, why_not_loaded
from truepair.models.encoders.minilm import load_minilm


@dataclass(frozen=True)
class SentenceEncoder:
    """A text encoder whose mean token state compares sentences (Reimers and Gurevych, EMNLP 2019).

    Attributes:
        model: in evaluation mode.
        tokenizer: its tokenizer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def longest(self) -> int:
        """Most tokens that it reads."""
        return int(getattr(self.model.config, "max_position_embeddings", self.tokenizer.model_max_length))


def load_sentence_encoder(name_or_folder: str) -> SentenceEncoder:
    """A sentence encoder.

    Args:
        name_or_folder: "minilm", of truepair[small]; else any text encoder of transformers, a folder or a name on the
            hub, sentence-transformers' models that average token states among them.

    Raises:
        CheckpointError: there is none.
        ConfigError: MiniLM is not installed.
    """
    if name_or_folder == "minilm":
        minilm = load_minilm()
        return SentenceEncoder(minilm.model, minilm.tokenizer)
    try:
        model = AutoModel.from_pretrained(name_or_folder, trust_remote_code=False)
        tokenizer = WholeTokenizer.from_pretrained(name_or_folder)
    except LOADING_ERRORS as error:
        reason = why_not_loaded(error)
        raise CheckpointError(f"no text encoder could be loaded from '{name_or_folder}': {reason}") from None
    return SentenceEncoder(model.eval(), tokenizer)


def aligned_layers(depth: int, most: int = 5) -> tuple[int, ...]:
    """Layers whose token states are compared: up to ``most``, evenly from a third of the depth to the last."""
    first = max(depth // 3, 1)
    count = min(most, depth - first + 1)
    return tuple(round(number) for number in torch.linspace(first, depth, count).tolist())


class LayerStates(nn.Module):
    """Token states of several layers side by side.

    Args:
        model: a text encoder of transformers.
        layers: from 0, the embeddings, to its depth.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.layers = tuple(layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask [B, L] to states [B, L, layers * D]."""
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        return torch.cat([found.hidden_states[layer] for layer in self.layers], dim=2)
