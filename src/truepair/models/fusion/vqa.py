"""Questions about images: the encoder side, and the answer decoder behind it."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.data.tasks.vqa import VqaBatch
from truepair.errors import ConfigError
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.answer_decoder import AnswerDecoder, QuestionKeysValues
from truepair.models.fusion.answers import AnswerTrie, RankedAnswers, rank_answers
from truepair.models.fusion.downstream import DownstreamConfig, DownstreamModel, TokenProducts
from truepair.models.fusion.fusion_encoder import FusionEncoder


class VqaConfig(DownstreamConfig):
    """Sizes and options of `VqaModel`; the answer decoder has as many layers as the fusion encoder."""

    model_type: ClassVar[str] = "truepair-vqa"

    answer_tokens: list[int] | None = None
    """Tokens of the tokenizer that answers are made of, padding first: the decoder knows no others, and numbers them by
    their place here (see `AnswerVocabulary`). None: all of them. The vocabulary head of 30,522 tokens takes more time
    than all layers of a small decoder."""
    copy_question: bool = False
    """Let the decoder copy tokens of the question (see `CopyHead`)."""


class VqaModel(DownstreamModel):
    """Question answering as in ALBEF, section 3.5, and SRCL: image and question are fused, a decoder answers.

    Methods take image states, so that those of a frozen encoder may come from a cache.
    """

    config_class = VqaConfig
    config: VqaConfig
    base_model_prefix = "vqa"
    _tied_weights_keys: dict[str, str] = {  # noqa: RUF012 - transformers reads it as an attribute of the model
        "answer_decoder.head.decoder.weight": "answer_decoder.embeddings.word_embeddings.weight"
    }

    def __init__(self, config: VqaConfig) -> None:
        super().__init__(config)
        self.fusion_encoder = FusionEncoder(config, self.image_encoder.width)
        self.answer_decoder = AnswerDecoder(config, config.answer_tokens, copies=config.copy_question)
        self.post_init()

    def _start_from(self, albef: AlbefModel) -> None:
        self.fusion_encoder.load_state_dict(albef.fusion_encoder.state_dict())
        self.answer_decoder.start_from(albef)

    def questions(
        self,
        image_states: Tensor,
        text_states: Tensor,
        attention_mask: Tensor,
        image_rows: Tensor,
        input_ids: Tensor | None = None,
    ) -> QuestionKeysValues:
        """What the decoder needs to know of Q questions about I images.

        Args:
            image_states: [I, N, W].
            text_states: of the questions [Q, L, D].
            attention_mask: 1 for tokens and 0 for padding, [Q, L].
            image_rows: the image of each question, [Q] int64.
            input_ids: tokens of the questions [Q, L]; needed with ``copy_question``.
        """
        states = text_states
        if self.token_products is not None:
            states, _ = self.token_products(states, attention_mask, image_states, image_rows[:, None])
        keys_values = self.fusion_encoder.image_keys_values(image_states)
        fused = self.fusion_encoder(states, attention_mask, keys_values, image_rows)  # [Q, L, D]
        return self.answer_decoder.question_keys_values(fused, attention_mask, input_ids)

    def answer_loss(
        self, questions: QuestionKeysValues, ids: Tensor, mask: Tensor, rows: Tensor, weights: Tensor
    ) -> Tensor:
        """Weighted negative log-likelihood of the answers, a scalar: summed over tokens and answers, mean of questions.

        Args:
            questions: Q of them.
            ids: tokens of the A answers, from the start to the end token, [A, T].
            mask: 1 for tokens and 0 for padding, [A, T].
            rows: the question of each answer, [A] int64.
            weights: of each answer: the share of people who gave it, [A].
        """
        states = self.answer_decoder(ids[:, :-1], questions, rows).states  # [A, T - 1, D]
        predicted = mask[:, 1:].bool()  # [A, T - 1]
        answer = predicted.nonzero()[:, 0]  # [P]
        logits = self.answer_decoder.logits(states[predicted], questions, rows[answer])  # [P, V], where a token follows
        losses = F.cross_entropy(logits.float(), ids[:, 1:][predicted], reduction="none")  # [P]
        return (losses * weights[answer]).sum() / len(questions.mask)

    def loss(self, batch: VqaBatch, image_states: Tensor | None = None, text_states: Tensor | None = None) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            batch: Q questions about I images.
            image_states: [I, N, W]; they replace the pixels.
            text_states: [Q, L, D]; they replace the tokens of the questions.
        """
        questions = self._questions_of(batch, image_states, text_states)
        return self.answer_loss(questions, batch.answer_ids, batch.answer_mask, batch.answer_rows, batch.answer_weights)

    @torch.inference_mode()
    def predict(
        self,
        batch: VqaBatch,
        trie: AnswerTrie,
        image_states: Tensor | None = None,
        text_states: Tensor | None = None,
        *,
        candidates: int = 128,
        prior: Tensor | None = None,
    ) -> RankedAnswers:
        """Rank an answer list for each question of a batch; call it in evaluation mode.

        Args:
            batch: Q questions.
            trie: the answer list, as tokens.
            image_states: [I, N, W]; they replace the pixels.
            text_states: [Q, L, D]; they replace the tokens of the questions.
            candidates: answers of each question that are scored in full.
            prior: added to the log-likelihood of each answer, such as a multiple of its `similarities` [Q, A].
        """
        questions = self._questions_of(batch, image_states, text_states)
        return rank_answers(self.answer_decoder, questions, trie, candidates=candidates, prior=prior)

    @torch.inference_mode()
    def answer_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features [A, E] of answers as if they were captions, for `similarities`.

        Args:
            input_ids: tokens of the answers, as captions are tokenized, [A, L].
            attention_mask: 1 for tokens and 0 for padding, [A, L].

        Raises:
            ConfigError: the model has no projections of ITC.
        """
        products = self._products()
        return products.text_features(self.text_states(input_ids, attention_mask), attention_mask)

    @torch.inference_mode()
    def similarities(self, image_states: Tensor, answer_features: Tensor) -> Tensor:
        """Cosines [I, A] of ITC between images and answers; in evaluation mode.

        Args:
            image_states: [I, N, W].
            answer_features: from `answer_features` [A, E].

        Raises:
            ConfigError: the model has no projections of ITC.
        """
        return self._products().image_features(image_states) @ answer_features.T

    @torch.inference_mode()
    def generate_answers(
        self,
        batch: VqaBatch,
        image_states: Tensor | None = None,
        text_states: Tensor | None = None,
        *,
        start: int,
        end: int,
        max_length: int = 10,
    ) -> list[list[int]]:
        """Write an answer to each question, always the likeliest token; call it in evaluation mode.

        Args:
            batch: Q questions.
            image_states: [I, N, W]; they replace the pixels.
            text_states: [Q, L, D]; they replace the tokens of the questions.
            start: start token.
            end: end token.
            max_length: most tokens of an answer.

        Returns:
            The tokens of each answer, without start and end.
        """
        questions = self._questions_of(batch, image_states, text_states)
        token = torch.full((len(questions.mask), 1), start, device=self.device)
        every_question = torch.arange(len(questions.mask), device=self.device)
        written, past = [], None
        for _ in range(max_length):
            decoded = self.answer_decoder(token, questions, past=past)
            past = decoded.past
            logits = self.answer_decoder.logits(decoded.states[:, -1], questions, every_question)  # [Q, V]
            token = logits.argmax(dim=1, keepdim=True)  # [Q, 1]
            written.append(token)
            if bool((torch.cat(written, dim=1) == end).any(dim=1).all()):
                break
        rows = torch.cat(written, dim=1).tolist()
        return [row[: row.index(end)] if end in row else row for row in rows]

    def _products(self) -> TokenProducts:
        if self.token_products is None:
            raise ConfigError("similarities of answers need ITC's projections: set token_products in model.options")
        return self.token_products

    def _questions_of(
        self, batch: VqaBatch, image_states: Tensor | None, text_states: Tensor | None
    ) -> QuestionKeysValues:
        if image_states is None:
            assert batch.pixel_values is not None, "a batch without pixels needs image states"
            image_states = self.image_states(batch.pixel_values)
        if text_states is None:
            text_states = self.text_states(batch.input_ids, batch.attention_mask)
        return self.questions(image_states, text_states, batch.attention_mask, batch.image_rows, batch.input_ids)
