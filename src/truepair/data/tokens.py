"""Captions to token ids: with any tokenizer of transformers, or a WordPiece trained on the captions at hand."""

import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import constants, try_to_load_from_cache
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from truepair.errors import ConfigError, DataError
from truepair.loading import LOADING_ERRORS, why_not_loaded
from truepair.relations.text import normalise_caption

_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}

_PREFIX = "##"

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")

_PATIENCE = 10  # seconds that the hub has to answer

_CASED = "ABCDEFGHIJKLMNOPQRSTUVWXYZ\u00c4\u0394\u03a9\u0416\u0424"  # letters that tell whether case is read

# Stand-ins for characters inside a word come from here, a private area of Unicode.
_PRIVATE = 0xF0000


class WholeTokenizer:
    """A tokenizer of transformers, which makes one without a vocabulary where a folder holds none."""

    @staticmethod
    def from_pretrained(
        name_or_folder: str | Path, *, trust_remote_code: bool = False, **options: Any
    ) -> PreTrainedTokenizerBase:
        """Load one; code beside it is never run.

        Args:
            name_or_folder: a folder, or a name on the hub.
            trust_remote_code: as all of transformers' loaders take it; whatever it is, no code is run.
            **options: of transformers' ``AutoTokenizer``.

        Raises:
            ValueError: no files of a vocabulary are there.
        """
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name_or_folder, trust_remote_code=False, **options
        )
        special = set(tokenizer.all_special_tokens)
        known = (token for token in tokenizer.get_vocab() if token not in special)
        if not any(character.isalnum() for token in known for character in token):
            raise ValueError("no vocabulary of a tokenizer is there (tokenizer.json, or the like)")
        return tokenizer


def load_tokenizer(name_or_folder: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, or by its name on the hub; one that was fetched before is not asked for again.

    Raises:
        ConfigError: there is no such tokenizer, or it cannot be reached.
    """
    name = str(name_or_folder)
    here = Path(name).exists()
    fetched = not here and _was_fetched(name)
    if not here and not fetched and not _hub_is_in_reach():
        raise ConfigError(
            f"no tokenizer at '{name}': there is no such folder, and the hub is not in reach; give a folder written by "
            "save_pretrained"
        )
    try:
        return WholeTokenizer.from_pretrained(name, local_files_only=fetched)
    except LOADING_ERRORS as error:
        reason = why_not_loaded(error)
        raise ConfigError(
            f"no tokenizer at '{name_or_folder}': give a folder written by save_pretrained or a hub name ({reason})"
        ) from None


def _was_fetched(name: str) -> bool:
    """Whether the tokenizer of a hub name is in the cache."""
    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in _TOKENIZER_FILES)
    except ValueError:  # no name on the hub
        return False


def _hub_is_in_reach() -> bool:
    """Whether the hub answers; without this, a name that is not on the disk is asked for again for a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        return True  # an answer, though not the one that was asked for
    except (OSError, ValueError):
        return False
    return True


def train_wordpiece(
    captions: Iterable[str], vocab_size: int = 8192, *, min_frequency: int = 2, lowercase: bool = True
) -> PreTrainedTokenizerFast:
    """Train a BERT-style WordPiece tokenizer on captions; the same captions give the same tokenizer, in any order.

    Token ids: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then the characters, then the merged pieces.

    Args:
        captions: the corpus; take the training split alone.
        vocab_size: most entries of the vocabulary, special tokens included; all characters are kept even so.
        min_frequency: two pieces that meet less often are not merged.
        lowercase: lower-case and strip accents, as bert-base-uncased does.

    Raises:
        ConfigError: ``vocab_size`` leaves no room beside the special tokens.
        DataError: the corpus has no text.
    """
    if vocab_size <= len(_SPECIAL):
        raise ConfigError(f"vocab_size is {vocab_size}; give more than the {len(_SPECIAL)} special tokens")
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = Counter[str]()
    # Neither normalizer nor splitter looks across a space, so each distinct piece between spaces is read once.
    for piece, count in Counter(piece for text in captions for piece in text.split(" ")).items():
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(piece)):
            words[word] += count
    if not words:
        raise DataError("no caption to train a tokenizer on; check the split")
    pieces = [*_SPECIAL.values(), *_train_pieces(words, vocab_size - len(_SPECIAL), min_frequency)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=_SPECIAL["unk"]))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix=_PREFIX)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(_SPECIAL[name], vocabulary[_SPECIAL[name]]) for name in ("cls", "sep")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in _SPECIAL.items()}
    )


def starting_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same, from `train_wordpiece`, for a language model: [CLS] starts a text, and who writes it ends it by [SEP].

    Args:
        tokenizer: changed in place.
    """
    start = _SPECIAL["cls"]
    tokenizer.bos_token, tokenizer.eos_token = start, _SPECIAL["sep"]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.bos_token_id)]
    )
    return tokenizer


def tokenize_captions(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], *, max_length: int, add_sep: bool = True
) -> tuple[Tensor, Tensor]:
    """Tokenize captions and pad them on the right to the longest.

    Args:
        tokenizer: its start token ([CLS], or BOS) comes first, if it has one.
        captions: B texts.
        max_length: most tokens, special tokens included.
        add_sep: add the end token ([SEP], or EOS).

    Returns:
        input_ids and attention_mask, both int64 [B, L].

    Raises:
        ConfigError: the tokenizer lacks a padding or end token, or ``max_length`` leaves no room for text.
    """
    return padded(caption_tokens(tokenizer, captions, max_length=max_length, add_sep=add_sep), tokenizer.pad_token_id)


def caption_tokens(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], *, max_length: int, add_sep: bool = True
) -> list[list[int]]:
    """The token ids of each caption, as :func:`tokenize_captions` pads them.

    Raises:
        ConfigError: as there.
    """
    start, end = (
        _first(tokenizer.cls_token_id, tokenizer.bos_token_id),
        _first(tokenizer.sep_token_id, tokenizer.eos_token_id),
    )
    if tokenizer.pad_token_id is None or (add_sep and end is None):
        raise ConfigError("the tokenizer has no padding or no end token; set pad_token, or use add_sep=False")
    before = [] if start is None else [start]
    after = [end] if add_sep and end is not None else []
    room = max_length - len(before) - len(after)
    if room < 1:
        raise ConfigError(f"max_length is {max_length}; give at least {max_length - room + 1}")
    texts = tokenizer(list(captions), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return [[*before, *text[:room], *after] for text in texts]


class Tokenization(Protocol):
    """From captions to token ids, as one model reads them."""

    @property
    def padding(self) -> int:
        """The id that fills up shorter captions."""
        ...

    @property
    def unknown(self) -> int | None:
        """The id that stands for words which the tokenizer does not know; None if it knows all."""
        ...

    @property
    def special(self) -> frozenset[int]:
        """The ids of tokens that stand for no word, such as those of start, end and padding."""
        ...

    def __call__(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption, special tokens included, without padding."""
        ...

    def uncut(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption, special tokens included, if it were not cut."""
        ...

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has, special tokens included, if it is not cut."""
        ...


@dataclass(frozen=True)
class OwnTokenization:
    """The tokenization of our own models: ALBEF's, with any tokenizer.

    Attributes:
        tokenizer: any transformers tokenizer with a padding token.
        max_length: most tokens of a caption, special tokens included; longer ones are cut.
        add_sep: end captions with the tokenizer's end token ([SEP]). ALBEF's captions have none.
        normalise: lower-case and strip punctuation before tokenizing, as ALBEF does.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int = 30
    add_sep: bool = True
    normalise: bool = False

    @property
    def padding(self) -> int:
        """The id that fills up shorter captions."""
        return int(self.tokenizer.pad_token_id)

    @property
    def unknown(self) -> int | None:
        """The id of unknown words."""
        return unknown_token(self.tokenizer)

    @property
    def special(self) -> frozenset[int]:
        """The ids of tokens that stand for no word."""
        return wordless_tokens(self.tokenizer)

    def __call__(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption, see :func:`caption_tokens`."""
        return self._tokens(captions, self.max_length)

    def uncut(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption if it were not cut."""
        return self._tokens(captions, sys.maxsize)

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has if it is not cut."""
        return [len(tokens) for tokens in self.uncut(captions)]

    def _tokens(self, captions: Sequence[str], max_length: int) -> list[list[int]]:
        texts = [normalise_caption(caption) for caption in captions] if self.normalise else captions
        return caption_tokens(self.tokenizer, texts, max_length=max_length, add_sep=self.add_sep)


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that stands for unknown words alone; None without one, as for CLIP, which names its end token so."""
    others = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    unknown: int | None = tokenizer.unk_token_id
    return None if unknown in (*others, tokenizer.pad_token_id) else unknown


def wordless_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of special tokens, but for that of unknown words."""
    return frozenset(tokenizer.all_special_ids) - {unknown_token(tokenizer)}


def tells_case(tokenization: Tokenization) -> bool:
    """Whether captions that differ in case alone may be different tokens, as "US" and "us" are to a cased model."""
    return tokenization(list(_CASED)) != tokenization(list(_CASED.lower()))


def padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Token ids of B captions, padded on the right to the longest: input_ids and attention_mask, both int64 [B, L]."""
    fill = [padding] * max(map(len, rows))
    lengths = torch.tensor([len(row) for row in rows])  # [B]
    input_ids = torch.tensor([[*row, *fill[len(row) :]] for row in rows], dtype=torch.int64)  # [B, L]
    attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()  # [B, L]
    return input_ids, attention_mask


def _train_pieces(words: Mapping[str, int], size: int, min_frequency: int) -> list[str]:
    """Pieces of the vocabulary, in order of their ids.

    The library's WordPiece trainer numbers the ``##`` pieces in the order of a hash map that differs from process to
    process, and equal counts are settled by number. Its BPE trainer sorts its alphabet. So characters inside a word are
    written as characters of their own, BPE is trained on that, and the pieces are written back.
    """
    characters = sorted({character for word in words for character in word[1:]})
    inner = {ord(character): chr(_PRIVATE + number) for number, character in enumerate(characters)}
    outer = {ord(stand_in): chr(code) for code, stand_in in inner.items()}

    def _corpus() -> Iterator[list[str]]:
        for word, count in words.items():
            yield [word[0] + word[1:].translate(inner)] * count

    bpe = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=min_frequency, show_progress=False)
    bpe.train_from_iterator(_corpus(), trainer)
    vocabulary = bpe.get_vocab()
    return [
        (_PREFIX if ord(piece[0]) in outer else "") + piece.translate(outer)
        for piece in sorted(vocabulary, key=vocabulary.__getitem__)
    ]


def _first(*ids: int | None) -> int | None:
    return next((number for number in ids if number is not None), None)
