"""A vision-language model's yes or no as a judge: is this caption true of this picture?"""

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from truepair.data.pairs import PairBatch
from truepair.data.table import PairTable
from truepair.errors import CheckpointError
from truepair.judges.base import JudgeConfig, JudgeInputs, PairReader, Read
from truepair.models.checkpoints.load import load_hub_model, load_part
from truepair.models.encoders.fingerprint import combined_key, encoder_fingerprint

_CAUSAL = frozenset(
    {"llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "idefics2", "idefics3", "smolvlm", "internvl"}
)
"""Kinds whose words read only what stands before them, so that a picture need not be read again for each caption."""

_MOST = 16  # pairs that go through a model together at most: each is a picture of hundreds of tokens

_SHARED = 2  # captions of a picture from which on it pays to read the picture alone first

_SURE = 0.01  # share of the next word that yes and no should have between them


class VlmJudge(PairReader):
    """Probability of "yes" against "no" as the next word after picture and question, from one forward pass a pair.

    Spellings of either word ("yes", " Yes", "YES", ...) are summed by their first tokens, as far as these differ.

    Args:
        model: any image-text-to-text model of transformers; it is put into evaluation mode and gets no gradient.
        processor: its own.
        table: the pictures it is asked about, by row.
        prompt: the question, with ``{caption}`` in it; it is put into the processor's chat template where there is
            one, and behind the mark of a picture where there is none.
        name: for logs.
        fingerprint: of weights, preprocessing and prompt.
        pairs_at_once: pairs that are read together; 16 at most.

    Raises:
        CheckpointError: the model cannot say yes and no.
    """

    repeatable = True
    pairs_at_once = 65_536  # of a query, to be put in order by picture

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        table: PairTable,
        *,
        prompt: str,
        name: str,
        fingerprint: str,
        pairs_at_once: int = _MOST,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.table = table
        self.name = name
        self.fingerprint = fingerprint
        self.together = min(pairs_at_once, _MOST)
        tokenizer: PreTrainedTokenizerBase = processor.tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # padding is masked, so any token will do
        self.yes, self.no = (torch.tensor(ids, device=model.device) for ids in answer_tokens(tokenizer, name))
        mark = getattr(processor, "image_token", None) or "<image>"
        self.mark = str(getattr(mark, "content", mark))  # a string, or a token
        self.before, self.after = _question(processor, self.mark, prompt, name)
        taken = inspect.signature(model.forward).parameters
        self._can_keep = "logits_to_keep" in taken
        self._cache = "cache" if "cache" in taken else "past_key_values"  # its name before transformers 5.24
        self._shares = model.config.model_type in _CAUSAL and self._can_keep
        self._warned = False

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    def encode(self, batch: PairBatch, image_rows: Tensor, text_rows: Tensor) -> Read:
        """Word the questions about captions [V], see ``PairReader.encode``; pictures are decoded when they are read."""
        rows = batch.source_index[image_rows].tolist()
        questions = [self._worded(batch.captions[row]) for row in text_rows.tolist()]

        def read(image: Tensor, text: Tensor) -> Tensor:
            """Yes against no; pairs of one picture together."""
            order = torch.argsort(image, stable=True)
            places, counts = image[order].unique_consecutive(return_counts=True)
            odds = torch.empty(len(image), dtype=torch.float32, device=self.device)
            single: list[int] = []
            for place, pairs in zip(places.tolist(), order.split(counts.tolist()), strict=True):
                if self._shares and len(pairs) >= _SHARED:
                    odds[pairs] = self._of_one_picture(rows[place], [questions[int(text[pair])] for pair in pairs])
                else:
                    single += pairs.tolist()
            for first in range(0, len(single), self.together):
                part = single[first : first + self.together]
                asked = [(rows[int(image[pair])], questions[int(text[pair])]) for pair in part]
                odds[torch.tensor(part, device=self.device)] = self._of_pairs(asked)
            return odds.sigmoid()

        return read

    def _worded(self, caption: str) -> str:
        """The question about a caption, which cannot bring a picture of its own."""
        return f"{self.before}{caption.replace(self.mark, ' ')}{self.after}"

    def _inputs(self, questions: Sequence[str], rows: Sequence[int]) -> dict[str, Any]:
        """What the model's own processor makes of some questions, one of each picture, padded at the right."""
        pictures = {row: self.table.image(row) for row in set(rows)}
        found = self.processor(
            text=list(questions),
            images=[[pictures[row]] for row in rows],
            padding=True,
            return_tensors="pt",
            **self._settings(questions[0]),
        )
        found.pop("labels", None)  # of training
        return dict(found.to(self.device, self.model.dtype))

    def _settings(self, question: str) -> dict[str, Any]:
        """A chat template may have put the beginning of the text already; right, so that no position moves."""
        begin = self.processor.tokenizer.bos_token
        begun = {"add_special_tokens": False} if begin is not None and question.startswith(begin) else {}
        return {"padding_side": "right", **begun}

    def _of_pairs(self, asked: Sequence[tuple[int, str]]) -> Tensor:
        """Log-odds of yes for some (row, question) [p], each picture with each question from its beginning."""
        inputs = self._inputs([question for _, question in asked], [row for row, _ in asked])
        return self._read(inputs, inputs["attention_mask"].sum(dim=1) - 1)

    def _of_one_picture(self, row: int, questions: Sequence[str]) -> Tensor:
        """Log-odds of yes for some questions about one picture [p], which is read once.

        All texts begin alike up to the picture, and go on with tokens that no picture changes: those behind its mark.
        """
        tails = [self._behind_mark(question) for question in questions]
        whole = self._inputs(questions[:1], [row])
        ids = whole["input_ids"][0].tolist()
        head = len(ids) - len(tails[0])
        if not tails[0] or ids[head:] != tails[0]:  # a processor that words questions itself
            parts = [questions[first : first + self.together] for first in range(0, len(questions), self.together)]
            return torch.cat([self._of_pairs([(row, question) for question in part]) for part in parts])
        found = []
        for first in range(0, len(questions), self.together):
            part = tails[first : first + self.together]
            begun = {
                name: value[:, :head] if name in _OF_TOKENS else value for name, value in whole.items()
            }  # each part has a cache of its own, which the model appends to
            cache = self.model(**begun, use_cache=True, logits_to_keep=1)[self._cache]
            cache.batch_repeat_interleave(len(part))
            found.append(self._go_on(cache, part))
        return torch.cat(found)

    def _go_on(self, cache: Any, tails: Sequence[Sequence[int]]) -> Tensor:
        """Log-odds of yes behind a cache and some further tokens [p]; what pads them comes later, and is never read."""
        ids = pad_sequence(
            [torch.tensor(tail) for tail in tails],
            batch_first=True,
            padding_value=self.processor.tokenizer.pad_token_id,
        )
        ends = torch.tensor([len(tail) - 1 for tail in tails], device=self.device)
        return self._read({"input_ids": ids.to(self.device), self._cache: cache, "use_cache": True}, ends)

    def _behind_mark(self, question: str) -> list[int]:
        """Tokens of a question behind the mark of its picture; none if the mark is no token."""
        settings = {key: value for key, value in self._settings(question).items() if key != "padding_side"}
        tokenizer = self.processor.tokenizer
        ids: list[int] = tokenizer(question, **settings)["input_ids"]
        mark = tokenizer.convert_tokens_to_ids(self.mark)
        return ids[ids.index(mark) + 1 :] if mark in ids else []

    def _read(self, inputs: dict[str, Any], ends: Tensor) -> Tensor:
        """Log-odds of yes as the word behind the places ``ends`` [p]."""
        kept, place = ends.unique(return_inverse=True)
        if self._can_keep:
            logits = self.model(**inputs, logits_to_keep=kept).logits  # [p, K, vocabulary]
        else:
            logits = self.model(**inputs).logits
            place = ends + logits.shape[1] - inputs["input_ids"].shape[1]  # some put the picture's states before
        words = logits[torch.arange(len(ends), device=self.device), place].float()
        yes, no = (words[:, tokens].logsumexp(dim=1) for tokens in (self.yes, self.no))
        self._check(torch.logaddexp(yes, no) - words.logsumexp(dim=1))
        odds: Tensor = yes - no
        return odds

    def _check(self, log_shares: Tensor) -> None:
        """Say it once if the model would say something else than yes or no."""
        share = float(log_shares.exp().median())
        if share < _SURE and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name} gives yes and no together only {share:.1e} of the next word: it does not take this for a "
                "question of yes or no, so its verdicts may say little; give another prompt",
                stacklevel=2,
            )


_OF_TOKENS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
"""Inputs with a value for each token."""


def answer_tokens(tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[list[int], list[int]]:
    """First tokens of the spellings of yes, and of no.

    Args:
        tokenizer: of the model.
        name: of the model, for errors.

    Raises:
        CheckpointError: no token begins one word and not the other.
    """
    yes, no = (_first_tokens(tokenizer, word) for word in ("yes", "no"))
    if not yes - no or not no - yes:
        raise CheckpointError(
            f"{name} has no token for yes and no apart, so it cannot judge; give a model whose tokenizer knows English"
        )
    return sorted(yes - no), sorted(no - yes)


def _first_tokens(tokenizer: PreTrainedTokenizerBase, word: str) -> set[int]:
    found = set()
    for spelling in (word, word.capitalize(), word.upper()):
        for space in ("", " "):
            first = tokenizer(space + spelling, add_special_tokens=False)["input_ids"][0]
            text = tokenizer.decode([first]).strip().lower()
            if first != tokenizer.unk_token_id and text and word.startswith(text):
                found.add(first)
    return found


def _question(processor: Any, mark: str, prompt: str, name: str) -> tuple[str, str]:
    """What stands before and behind a caption.

    Raises:
        CheckpointError: the chat template is broken.
    """
    stand_in = "CAPTION"  # not {caption}: a template may know braces
    asked = prompt.strip().replace("{caption}", stand_in)
    marks_itself = hasattr(processor, "num_query_tokens")  # those of the BLIP-2 family
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": asked}]
        try:
            worded = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        except Exception as error:  # whatever a template of someone else's raises
            raise CheckpointError(f"the chat template of {name} fails: {' '.join(str(error).split())[:200]}") from error
    else:
        worded = asked if marks_itself else f"{mark} {asked}"
    before, found, after = str(worded).rpartition(asked)
    if not found or not (marks_itself or mark in before):
        raise CheckpointError(
            f"the chat template of {name} does not put the picture, then the question as it is; give another model"
        )
    start, _, end = asked.partition(stand_in)
    return before + start, end + after


def open_vlm(config: JudgeConfig, run: JudgeInputs, device: torch.device | str) -> VlmJudge:
    """Open any image-text-to-text model of transformers with its processor, by folder or name on the hub.

    Its weights are read in bfloat16 on a GPU, else in float32; code that a checkpoint brings is never run.

    Raises:
        CheckpointError: there is none, it is damaged, it is of another kind, or it cannot say yes and no.
    """
    where = config.checkpoint
    name = f"vlm {where}"
    found = load_part(AutoConfig, where)
    if type(found) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise CheckpointError(
            f"{where} is a model of kind '{found.model_type}', which answers no questions about pictures; give an "
            "image-text-to-text model of transformers, such as LLaVA, Qwen2-VL or SmolVLM"
        )
    if found.is_encoder_decoder or found.get_text_config().is_encoder_decoder:
        raise CheckpointError(f"{where} reads its question with an encoder, which this judge cannot; give a decoder")
    processor = load_part(AutoProcessor, where, what="processor")
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise CheckpointError(
            f"no processor of pictures and words could be loaded from {where}; save the processor that the model was "
            "trained with beside it"
        )
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    model = load_hub_model(AutoModelForImageTextToText, where, weights_only=True, dtype=dtype)
    inputs = {
        "images": processor.image_processor.to_dict(),
        "words": processor.tokenizer.get_vocab(),
        "template": str(getattr(processor, "chat_template", None)),
        "prompt": config.prompt,
    }
    return VlmJudge(
        model.to(device),
        processor,
        run.table,
        prompt=config.prompt,
        name=name,
        fingerprint=combined_key(model=encoder_fingerprint(model), **inputs),
        pairs_at_once=config.pairs_at_once,
    )
