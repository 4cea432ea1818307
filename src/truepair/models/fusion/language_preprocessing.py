"""How images and texts reach a BLIP-2 with a language model: what is read before a text, and which tokens are written.

A text follows the start token of the language model or, where there is one, its prompt, and ends with the end token.
Start and prompt are read, and only what follows them is learned and written.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from transformers import Blip2Processor

from truepair.data.preprocessing import PREPROCESSING_FILE
from truepair.data.tokens import padded
from truepair.models.dual.hub_preprocessing import HubPreprocessing, HubTokenization

IMAGE_TOKEN = "<image>"
"""What stands in the tokens of transformers' class for what each query saw."""


class LanguageTokens(NamedTuple):
    """B texts as a language model reads and writes them.

    Attributes:
        input_ids: what is read before each text, then its own tokens and the end token, int64 [B, L].
        attention_mask: 1 for tokens, then 0 for padding, int64 [B, L].
        written: True at the tokens that are learned: the text's own and the end token, bool [B, L].
    """

    input_ids: Tensor  # [B, L]
    attention_mask: Tensor  # [B, L]
    written: Tensor  # [B, L]


@dataclass(frozen=True)
class LanguageTokenization(HubTokenization):
    """A language model's tokenizer, with a prompt before each text and an end behind it.

    Attributes:
        start: id that is read first where there is no prompt.
        end: id behind each text.
        prompt: what is read before each text.
    """

    start: int = 0
    end: int = 0
    prompt: str = ""

    def __call__(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption, cut to the longest that is read; one that is cut lacks its end token."""
        return [row[: self.max_length] for row in self.uncut(captions)]

    def uncut(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption if it were neither cut nor padded."""
        return self.after([self.prompt] * len(captions), captions)

    def after(self, prompts: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text with what is read before it, and its end; not cut."""
        before = self.before(prompts)
        bare = [place for place, prompt in enumerate(prompts) if not prompt]
        behind = [place for place, prompt in enumerate(prompts) if prompt]
        own: dict[int, list[int]] = dict(zip(bare, self._ids([texts[place] for place in bare]), strict=True))
        for place, row in zip(
            behind, self._ids([f"{prompts[place]} {texts[place]}" for place in behind], special=True), strict=True
        ):
            count = len(before[place])
            if row[:count] == before[place]:
                own[place] = row[count:]
            else:  # what joins the prompt's last word to the first of the text cannot be asked for
                own[place] = self._ids([f" {texts[place]}"])[0]
        return [[*ids, *own[place], self.end] for place, ids in enumerate(before)]

    def before(self, prompts: Sequence[str]) -> list[list[int]]:
        """What is read before each text: its prompt as the tokenizer reads it, or the start token alone."""
        rows = self._ids(prompts, special=True)
        return [row if prompt else [self.start] for prompt, row in zip(prompts, rows, strict=True)]

    def _ids(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        if not texts:
            return []
        made = self.tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False)
        ids: list[list[int]] = made["input_ids"]
        return ids


@dataclass(frozen=True, kw_only=True)
class LanguagePreprocessing(HubPreprocessing):
    """Image processor and tokenizer of a `Blip2ForConditionalGeneration`.

    ``max_length`` counts prompt, text and end token, but not what the queries saw.

    Attributes:
        start: as in `LanguageTokenization`.
        end: likewise.
        queries: Q, which are read before all tokens.
        prompt: what is read before each text where no other prompt is given.
    """

    start: int
    end: int
    queries: int
    prompt: str = ""

    @property
    def tokenization(self) -> LanguageTokenization:
        """From texts to token ids, behind the prompt."""
        return LanguageTokenization(
            self.tokenizer, self.max_length, start=self.start, end=self.end, prompt=self.prompt.strip()
        )

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> LanguageTokens:
        """Texts as they are learned, each behind its prompt.

        Args:
            texts: B texts.
            prompts: one of each; ``prompt`` of all where absent.
        """
        tokenization = self.tokenization
        asked = [tokenization.prompt] * len(texts) if prompts is None else [prompt.strip() for prompt in prompts]
        rows = [row[: self.max_length] for row in tokenization.after(asked, texts)]
        ids, mask = padded(rows, tokenization.padding)
        before = torch.tensor([len(row) for row in tokenization.before(asked)])  # [B]
        places = torch.arange(ids.shape[1])
        return LanguageTokens(ids, mask, mask.bool() & (places >= before[:, None]))

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What is read before texts that are to be written: ids and mask (then padding), both int64 [B, L]."""
        tokenization = self.tokenization
        rows = tokenization.before([prompt.strip() for prompt in prompts])
        return padded([row[: self.max_length] for row in rows], tokenization.padding)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of written tokens."""
        return [str(self.tokenizer.decode(list(row), skip_special_tokens=True)).strip() for row in rows]

    def prompted(self, prompt: str | None) -> Self:
        """The same with another prompt; None for its own."""
        return self if prompt is None else replace(self, prompt=prompt.strip())

    def reading(self, max_length: int) -> Self:
        """The same for texts of so many tokens."""
        return replace(self, max_length=max_length)

    def caption_settings(self) -> dict[str, Any]:
        """What the tokens of a text depend on."""
        return super().caption_settings() | {"start": self.start, "end": self.end, "prompt": self.prompt}

    def save(self, folder: Path) -> None:
        """Write both as transformers' processor of BLIP-2, and beside them what that has no place for."""
        super().save(folder)
        self.processor_of_both.save_pretrained(folder)
        settings = {"max_length": self.max_length, "prompt": self.prompt, "transform": asdict(self.transform)}
        (folder / PREPROCESSING_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")

    @cached_property
    def processor_of_both(self) -> Blip2Processor:
        """The processor of transformers, which puts a token for each query before the text."""
        return Blip2Processor(self.processor, self.tokenizer, num_query_tokens=self.queries)
