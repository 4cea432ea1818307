"""Tokenizers: any of transformers', or a WordPiece trained on the captions at hand."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from truepair.errors import ConfigError, DataError

_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def load_tokenizer(name_or_folder: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, or by its name on the hub.

    Raises:
        ConfigError: there is no such tokenizer, or it cannot be reached.
    """
    try:
        return AutoTokenizer.from_pretrained(str(name_or_folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"no tokenizer at '{name_or_folder}': give a folder written by save_pretrained or a hub name ({reason})"
        ) from None


def train_wordpiece(
    captions: Iterable[str], vocab_size: int = 8192, *, min_frequency: int = 2, lowercase: bool = True
) -> PreTrainedTokenizerFast:
    """Train a BERT-style WordPiece tokenizer on captions; the same captions give the same tokenizer.

    Token ids: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then the vocabulary.

    Args:
        captions: the corpus; train on the training split alone.
        vocab_size: most entries of the vocabulary, special tokens included.
        min_frequency: a piece that occurs less often is not merged.
        lowercase: lower-case and strip accents, as bert-base-uncased does.

    Raises:
        ConfigError: ``vocab_size`` leaves no room beside the special tokens.
        DataError: the corpus has no text.
    """
    if vocab_size <= len(_SPECIAL):
        raise ConfigError(f"vocab_size is {vocab_size}; give more than the {len(_SPECIAL)} special tokens")
    # Sorting makes the result independent of row order.
    corpus = sorted(captions)
    if not any(caption.strip() for caption in corpus):
        raise DataError("no caption to train a tokenizer on; check the split")
    tokenizer = Tokenizer(models.WordPiece(unk_token=_SPECIAL["unk"]))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(_SPECIAL.values()),
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    ends = [(_SPECIAL[name], tokenizer.token_to_id(_SPECIAL[name])) for name in ("cls", "sep")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in _SPECIAL.items()}
    )


def encode_captions(
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
    start, end = (
        _first(tokenizer.cls_token_id, tokenizer.bos_token_id),
        _first(tokenizer.sep_token_id, tokenizer.eos_token_id),
    )
    if tokenizer.pad_token_id is None or (add_sep and end is None):
        raise ConfigError("the tokenizer has no padding or no end token; set pad_token, or use add_sep=False")
    before = [] if start is None else [start]
    after = [end] if add_sep else []
    room = max_length - len(before) - len(after)
    if room < 1:
        raise ConfigError(f"max_length is {max_length}; give at least {max_length - room + 1}")
    texts = tokenizer(list(captions), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    rows = [[*before, *text[:room], *after] for text in texts]
    lengths = torch.tensor([len(row) for row in rows])  # [B]
    input_ids = torch.full((len(rows), int(lengths.max())), tokenizer.pad_token_id, dtype=torch.int64)  # [B, L]
    for position, row in enumerate(rows):
        input_ids[position, : len(row)] = torch.tensor(row)
    attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()  # [B, L]
    return input_ids, attention_mask


def _first(*ids: int | None) -> int | None:
    return next((number for number in ids if number is not None), None)
