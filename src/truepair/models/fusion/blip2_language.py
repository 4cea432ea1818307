"""BLIP-2 stage 2, `Blip2ForConditionalGeneration` of transformers: a language model goes on from what queries saw."""

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, Blip2Config, Blip2ForConditionalGeneration, PreTrainedModel

from truepair.data.tasks.captioning import CaptionBatch
from truepair.data.tasks.vqa_language import LanguageVqaBatch
from truepair.errors import ConfigError
from truepair.models.checkpoints.load import load_hub_model, load_part
from truepair.models.dual.adapter import has_adapter, insert_like
from truepair.models.encoders.base import ImageEncoder
from truepair.models.encoders.images import build_image_encoder
from truepair.models.fusion.blip import BlipImageTower
from truepair.models.fusion.blip2_files import TOWER_FILE, load_tower, vision_names, weights_under, write_weights
from truepair.models.fusion.language_adapter import (
    merge_adapter_into,
    restore_language_adapter,
    save_language_adapter,
    train_dropout,
)


class Blip2LanguageModel(nn.Module):
    """The second stage of BLIP-2 (Li et al., ICML 2023), trained and saved as what it is: its class and its format.

    The queries read the states of an image, one linear layer maps what they saw to the width of a language model, and
    that reads it before its own tokens and goes on: a caption, or the answer to a prompt. The Q-Former and the linear
    layer are trained; the language model rests unless `rest_language` says otherwise.

    An image encoder that is no ViT may stand in the place of the vision model, as in the first stage; then the class of
    transformers reads all else of the folder, and says what it lacks.

    Args:
        model: The model.
        vision: The image tower, if not the model's own.
    """

    def __init__(self, model: Blip2ForConditionalGeneration, vision: ImageEncoder | None = None) -> None:
        super().__init__()
        require_decoder(model.config.text_config)
        self.model: Any = model
        self.vision = vision
        if vision is not None:
            self.model.vision_model = None
            self.model.config.image_encoder = vision.config
        self.language_rests = False
        self.rest_language(True)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, *, merged: bool = False, **options: Any) -> Self:
        """Load a model without what reads images and texts for it.

        Args:
            name_or_folder: A folder that `save_pretrained` wrote, of this class or of transformers, or a hub name.
            merged: Leave an adapter where it is, added to the weights of the language model.
            **options: How transformers is to read the weights, such as ``use_safetensors``.

        Raises:
            CheckpointError: It is missing or damaged.
            ConfigError: Its language model is no decoder.
        """
        name = str(name_or_folder)
        config = load_part(Blip2Config, name, what="config")
        require_decoder(config.text_config)
        tower = load_tower(config, name)
        absent = frozenset() if tower is None else vision_names(config)
        model = load_hub_model(Blip2ForConditionalGeneration, name, may_lack=absent, dtype=torch.float32, **options)
        made = cls(model, tower)
        if not merged:
            restore_language_adapter(made.text_encoder, name)
        return made

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write a folder of transformers, which `Blip2ForConditionalGeneration.from_pretrained` reads."""
        state = dict(self.state_dict() if state_dict is None else state_dict)
        weights = weights_under("model.", state)
        if has_adapter(self.text_encoder):
            # Weights that are given are whole, and the model's own may be spread over processes.
            whole = copy.deepcopy(self.model) if state_dict is None else self.blank().model
            whole.load_state_dict(weights)
            merge_adapter_into(whole.language_model)
            whole.save_pretrained(folder)
            save_language_adapter(self.text_encoder, Path(folder), weights_under("language_model.", weights))
        else:
            self.model.save_pretrained(folder, state_dict=weights)
        if self.vision is not None:
            write_weights(weights_under("vision.", state), Path(folder, TOWER_FILE))

    def blank(self) -> Self:
        """A model of the same kind and sizes with other weights."""
        vision = None if self.vision is None else build_image_encoder(self.vision.config)
        made = type(self)(type(self.model)(self.model.config), vision)
        insert_like(made.text_encoder, self.text_encoder)
        return made

    @property
    def kind(self) -> str:
        """The model's class in transformers."""
        return type(self.model).__name__

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    @property
    def queries(self) -> int:
        """Q, the learned queries."""
        return int(self.model.query_tokens.shape[1])

    @property
    def longest(self) -> int:
        """Most tokens that the language model reads behind the queries; no limit without position embeddings."""
        limit = getattr(self.model.config.text_config, "max_position_embeddings", None)
        return (sys.maxsize if limit is None else int(limit)) - self.queries

    @property
    def image_encoder(self) -> nn.Module:
        """The vision model: images [B, 3, H, W] to states [B, N, W]."""
        return BlipImageTower(self.model.vision_model) if self.vision is None else self.vision

    @property
    def text_encoder(self) -> PreTrainedModel:
        """The language model."""
        language: PreTrainedModel = self.model.language_model
        return language

    def rest_language(self, rests: bool) -> Self:
        """Say whether the language model is left as it is: without gradient of its own, and without dropout."""
        self.language_rests = rests
        self.text_encoder.requires_grad_(not rests)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but for a language model that rests."""
        super().train(mode)
        if self.language_rests:
            self.text_encoder.eval()
            train_dropout(self.text_encoder, mode)
        return self

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any]) -> None:
        """Let the backward pass recompute what the forward pass made, instead of keeping it."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs)

    def image_states(self, pixel_values: Tensor) -> Tensor:
        """Images [I, 3, H, W] to image states [I, N, W]."""
        states: Tensor = self.image_encoder(pixel_values)
        return states

    @torch.no_grad()
    def image_features(self, image_states: Tensor) -> Tensor:
        """Image states [I, N, W] to their L2-normalised mean [I, W]: this class has no space of ITC."""
        return F.normalize(image_states.mean(dim=1), dim=-1)

    def text_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids [B, L] to the embeddings that the language model reads [B, L, D]; a mask changes nothing."""
        embedded: Tensor = self.text_encoder.get_input_embeddings()(input_ids)
        return embedded

    def seen(self, image_states: Tensor) -> Tensor:
        """Image states [I, N, W] to what the language model reads of each image [I, Q, D]."""
        queries = self.model.query_tokens.expand(len(image_states), -1, -1)  # [I, Q, H]
        read = self.model.qformer(query_embeds=queries, encoder_hidden_states=image_states).last_hidden_state
        mapped: Tensor = self.model.language_projection(read)
        return mapped

    def logits(self, image_states: Tensor, image_rows: Tensor, text_states: Tensor, attention_mask: Tensor) -> Tensor:
        """What follows the queries, and each token of B texts [B, 1 + L, V].

        Args:
            image_states: Of I images [I, N, W].
            image_rows: The image of each text, int64 [B].
            text_states: From `text_states` [B, L, D].
            attention_mask: 1 for tokens, then 0 for padding, [B, L].
        """
        seen = self.seen(image_states)[image_rows].to(text_states.dtype)  # [B, Q, D]
        mask = torch.cat([attention_mask.new_ones(seen.shape[:2]), attention_mask], dim=1)
        made = self.text_encoder(
            inputs_embeds=torch.cat([seen, text_states], dim=1),
            attention_mask=mask,
            logits_to_keep=text_states.shape[1] + 1,
            use_cache=False,
        )
        logits: Tensor = made.logits
        return logits

    def log_probabilities(
        self,
        image_states: Tensor,
        image_rows: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        written: Tensor,
        text_states: Tensor | None = None,
    ) -> Tensor:
        """Log-probability of each written token after all that stands before it [P], in row-major order.

        Args:
            image_states: Of I images [I, N, W].
            image_rows: The image of each text, int64 [B].
            input_ids: Tokens [B, L], as `LanguageTokens` has them.
            attention_mask: Of these [B, L].
            written: True at the P tokens that are written [B, L].
            text_states: From `text_states` [B, L, D]; they replace the embeddings.
        """
        if text_states is None:
            text_states = self.text_states(input_ids)
        logits = self.logits(image_states, image_rows, text_states, attention_mask)[:, :-1]  # [B, L, V]
        chosen = logits[written].float()  # [P, V]
        return -F.cross_entropy(chosen, input_ids[written], reduction="none")

    def log_likelihoods(
        self, image_states: Tensor, image_rows: Tensor, input_ids: Tensor, attention_mask: Tensor, written: Tensor
    ) -> Tensor:
        """Log-likelihood of what is written of each of B texts [B]; see `log_probabilities`."""
        each = self.log_probabilities(image_states, image_rows, input_ids, attention_mask, written)  # [P]
        rows = written.nonzero()[:, 0]  # [P]
        return each.new_zeros(len(input_ids)).index_add(0, rows, each)

    def loss(
        self,
        batch: CaptionBatch | LanguageVqaBatch,
        image_states: Tensor | None = None,
        text_states: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy of each written token, a scalar.

        Of captions it is the mean over the tokens of all; of answers, as in `VqaModel.answer_loss`, summed over the
        tokens and the weighted answers of a question, the mean over questions.

        Args:
            batch: B captions, or answers, of I images, which says what is written.
            image_states: [I, N, W]; they replace the pixels.
            text_states: [B, L, D]; they replace the embeddings of the tokens.
        """
        if image_states is None:
            assert batch.pixel_values is not None, "a batch without pixels needs image states"
            image_states = self.image_states(batch.pixel_values)
        assert batch.written is not None, "the collator of a language model says what is written"
        tokens = (batch.input_ids, batch.attention_mask, batch.written)
        each = self.log_probabilities(image_states, batch.image_rows, *tokens, text_states=text_states)  # [P]
        if isinstance(batch, CaptionBatch):
            return -each.mean()
        return -(each * batch.weights[batch.written.nonzero()[:, 0]]).sum() / len(batch)

    @torch.inference_mode()
    def write(
        self,
        image_states: Tensor,
        image_rows: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        beams: int = 5,
        max_length: int = 30,
        min_length: int = 0,
        length_penalty: float = 1.0,
    ) -> list[list[int]]:
        """Go on from B prompts by the beam search of transformers; call it in evaluation mode.

        Args:
            image_states: Of I images [I, N, W].
            image_rows: The image of each prompt, int64 [B].
            input_ids: What is read before each text [B, L], as `LanguagePreprocessing.encode_prompts` makes it.
            attention_mask: 1 for tokens, then 0 for padding, [B, L].
            beams: K, beginnings that are kept of each text.
            max_length: Most tokens of a text, its end included.
            min_length: Fewest tokens of a text, its end not counted.
            length_penalty: The power of its number of tokens that a text's log-likelihood is divided by.

        Returns:
            The tokens of each text, without prompt and end.
        """
        seen = self.seen(image_states)[image_rows]  # [B, Q, D]
        embedded = torch.cat([seen, self.text_states(input_ids).to(seen.dtype)], dim=1)  # [B, T, D]
        mask = torch.cat([attention_mask.new_ones(seen.shape[:2]), attention_mask], dim=1)  # [B, T]
        # What is read has to end where the text begins: padding goes to the left.
        total = mask.shape[1]
        order = (torch.arange(total, device=mask.device) + mask.sum(dim=1)[:, None]) % total  # [B, T]
        ends = self.ends
        rows = self.model.language_model.generate(
            inputs_embeds=embedded.gather(1, order[:, :, None].expand_as(embedded)),
            attention_mask=mask.gather(1, order),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=max_length,
            min_new_tokens=min_length or None,
            length_penalty=length_penalty,
            pad_token_id=ends[0],
        )
        return [_until(row, ends) for row in rows.tolist()]

    @property
    def ends(self) -> list[int]:
        """The ids that end a text; the first is the one that is learned."""
        end = self.model.config.text_config.eos_token_id
        return list(end) if isinstance(end, list) else [end]


def require_decoder(text_config: Any) -> None:
    """Refuse a language model that encodes what it reads, as T5 does, or reads both ways, as BERT does.

    Transformers makes a language model of the weights of either, which has not learned to go on.

    Raises:
        ConfigError: It is one.
    """
    does = None
    if text_config.is_encoder_decoder:
        does = "encodes and decodes"
    elif _reads_both_ways(text_config):
        does = "fills in words and does not go on"
    if does is not None:
        raise ConfigError(
            f"the language model is a {text_config.model_type}, which {does}; give one that only decodes (OPT, GPT-2, "
            "Llama, Qwen, ...), such as facebook/opt-125m, or a BLIP-2 that has one, such as Salesforce/blip2-opt-2.7b"
        )


def _reads_both_ways(text_config: Any) -> bool:
    """Whether a config is that of a model which guesses masked words."""
    return type(text_config) in AutoModelForMaskedLM._model_mapping and not getattr(text_config, "is_decoder", False)


def _until(row: list[int], ends: list[int]) -> list[int]:
    """The tokens before the first end."""
    place = next((number for number, token in enumerate(row) if token in ends), len(row))
    return row[:place]
