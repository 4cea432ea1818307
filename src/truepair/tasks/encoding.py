"""Encodes the pictures and captions of a gallery, once: what frozen encoders made is kept on disk for the next call."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from truepair.checked import CHECKS
from truepair.data.left_out import LeftOut
from truepair.data.pairs import PairDataset
from truepair.data.table import PairTable
from truepair.data.tokens import OwnTokenization, caption_tokens, tells_case, tokenize_captions
from truepair.data.transforms import TransformConfig
from truepair.engine.distributed.processes import own_device
from truepair.engine.logs.progress import counting
from truepair.errors import ConfigError
from truepair.methods.caches import cache_folder
from truepair.mining.gallery import Gallery
from truepair.mining.signals.encoded import Encoded, TokenStates
from truepair.mining.signals.spaces import Projection
from truepair.mining.signals.words import WordStatistics, is_content
from truepair.models.encoders.fingerprint import combined_key
from truepair.models.encoders.frozen import FrozenStates, Inputs, StateBlock
from truepair.models.encoders.frozen_captions import cache_caption_states
from truepair.models.encoders.frozen_images import PooledEncoder, cache_image_states
from truepair.models.encoders.images import image_transform, load_image_encoder
from truepair.models.encoders.minilm import sentence_vectors
from truepair.models.encoders.sentences import LayerStates, SentenceEncoder, aligned_layers, load_sentence_encoder
from truepair.tasks.embedding import StoredPictures
from truepair.tasks.retriever import Retriever

_WORD_STARTS = "\u0120\u2581"  # marks that byte-pair and unigram tokenizers put before a word

_LONGEST = 64  # tokens of a caption

_AT_ONCE = 4096  # captions whose vectors are made of their token states at once

_IMAGES = 64  # pictures, and texts, that a dual encoder reads at once


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """What encodes a gallery.

    Attributes:
        model: any dual encoder, by folder, name or checkpoint file, that compares pictures with captions and with each
            other; without one, ridge regression from the frozen image encoder to the text encoder does.
        text_encoder: "minilm" of truepair[small], or any text encoder of transformers by folder or name.
        image_encoder: "efficientnet_lite0" of truepair[small], or any vision model of transformers; None takes the
            dual encoder's own features of pictures where there is one, and "efficientnet_lite0" where there is none.
        image_size: side of the pictures that the frozen image encoder reads, in pixels; 0 for its own.
        pictures: encode the pictures; without, captions alone are compared.
        alignment: keep the token states of several layers on disk, to align words with words: 3.8 KB a token of a
            small encoder.
        cache_folder: where states are kept; None for a folder of the user's cache.
        workers: processes that read pictures; None for as many as there are cores, 0 for none beside the command's own.
        cache_check: whether a picture has changed since its states were computed is told by "times", name, size and
            time of change of its file, or by all its "bytes", which are then read each time.
    """

    model: str | None = None
    text_encoder: str = "minilm"
    image_encoder: str | None = None
    image_size: int = 128
    pictures: bool = True
    alignment: bool = True
    cache_folder: str | None = None
    workers: int | None = None
    cache_check: Literal["times", "bytes"] = "times"

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers is {self.workers}; give 0 or more")
        if self.cache_check not in CHECKS:
            raise ConfigError(f"cache_check is '{self.cache_check}'; give {' or '.join(CHECKS)}")
        if not self.pictures and (self.model is not None or self.image_encoder is not None):
            raise ConfigError("without pictures there is nothing for a model or an image encoder to read; drop them")

    @property
    def reads_frozen(self) -> bool:
        """Whether a frozen image encoder reads the pictures, beside the model or for want of one."""
        return self.pictures and (self.image_encoder is not None or self.model is None)


def encode_gallery(
    table: PairTable,
    config: EncodingConfig,
    say: Callable[[str], None],
    *,
    statistics: WordStatistics | None = None,
    space: Projection | None = None,
    left_out: LeftOut | None = None,
) -> Encoded:
    """Encode the distinct pictures and captions of a table.

    Args:
        table: the pairs; rows whose picture cannot be read are left out, and a line says so.
        config: what encodes them.
        say: prints a line.
        statistics: how rare words are; None counts the captions themselves.
        space: of captions, fitted on others; None fits it on these.
        left_out: takes what is left out or cut; None for saying it alone.

    Raises:
        CheckpointError: a model is missing.
        ConfigError: an encoder is not installed.
        DataError: no picture can be read, or the disk refuses.
    """
    left_out = left_out or LeftOut(say)
    folder = cache_folder(config.cache_folder)
    dual = None if config.model is None else Retriever.load(config.model, say=say)
    sentences = load_sentence_encoder(config.text_encoder)
    reader = OwnTokenization(sentences.tokenizer) if dual is None else dual.preprocessing.tokenization
    table = table.read_by_case(tells_case(reader))
    gallery = Gallery.of_table(table)
    shown = table.select(gallery.rows)
    found: list[tuple[Tensor, dict[int, str]]] = []
    if config.reads_frozen:
        found.append(_frozen_images(shown, config, folder))
    if dual is not None:
        found.append(_dual_images(dual, shown, folder, min(_workers(config), 4), config.cache_check))
    unreadable = {row: why for _, reasons in found for row, why in reasons.items()}
    images = [features for features, _ in found]
    lost: tuple[int, ...] = ()
    if unreadable:
        left_out.pictures(shown, unreadable)
        there = np.ones(len(gallery), bool)
        there[list(unreadable)] = False
        images = [features[torch.from_numpy(there)] for features in images]
        kept = there[table.pictures]
        lost = tuple(np.flatnonzero(~kept).tolist())
        gallery = Gallery.of_table(table.select(np.flatnonzero(kept)))
    vectors, tokens = _captions(gallery.texts, sentences, config.alignment, folder, statistics, table.name, left_out)
    both = None if dual is None else (images[-1], _dual_captions(dual, gallery.texts, folder, table.name, left_out))
    return Encoded(gallery, vectors, tokens, images[0] if images else None, both, space, lost)


def _frozen_images(table: PairTable, config: EncodingConfig, folder: Path) -> tuple[Tensor, dict[int, str]]:
    """Features of a table's pictures by the frozen image encoder, L2-normalised [N, F], and why some have none."""
    encoder = load_image_encoder(config.image_encoder or "efficientnet_lite0", image_size=config.image_size or None)
    encoder.freeze().to(own_device())
    transform = TransformConfig(size=encoder.image_size, normalisation="encoder")
    dataset = PairDataset(table, image_transform(transform, encoder, train=False), captions="first")
    with counting("pictures") as show:
        states = cache_image_states(
            PooledEncoder(encoder),
            dataset,
            folder,
            preprocessing={"size": encoder.image_size, "normalisation": "encoder"},
            workers=_workers(config),
            progress=show,
            check=config.cache_check,
        )
    return _normalised(states.views[0], states.image_rows), states.unreadable


def _workers(config: EncodingConfig) -> int:
    """Processes that read pictures."""
    return (os.cpu_count() or 1) if config.workers is None else config.workers


def _dual_images(
    model: Retriever, table: PairTable, folder: Path, workers: int, check: str
) -> tuple[Tensor, dict[int, str]]:
    """Features of a table's pictures by a dual encoder, L2-normalised [N, E], and why some have none."""
    every = np.arange(len(table))
    images = table.rows.select_columns(["image"])

    def blocks(rows: NDArray[np.int64]) -> Iterator[StateBlock]:
        """Batches of some pictures; what cannot be read is zero."""
        pictures = StoredPictures(images, rows)
        done = 0
        for part in model.image_parts(pictures, batch_size=_IMAGES, workers=workers):
            reasons = [""] * (part.done - done)
            for place, why in part.unreadable:
                reasons[place - done] = why
            states = torch.zeros(len(reasons), model.embed_dim)
            states[torch.tensor([not why for why in reasons])] = torch.from_numpy(part.vectors)
            done = part.done
            yield StateBlock(states, reasons)

    key = combined_key(model=model.fingerprint, ids=table.image_ids.tobytes(), check=check)
    with counting("pictures, by the model") as show:
        states = FrozenStates.open_or_compute(
            folder,
            key,
            len(table),
            (model.embed_dim,),
            lambda start: blocks(every[start:]),
            label="dual-images",
            progress=show,
            inputs=Inputs(table.picture_stamps(every, check), blocks),
        )
    return _normalised(states, torch.arange(len(table))), states.unreadable


def _dual_captions(model: Retriever, texts: Sequence[str], folder: Path, name: str, left_out: LeftOut) -> Tensor:
    """Features of captions by a dual encoder, L2-normalised [M, E]."""
    left_out.cut(name, texts, dict.fromkeys(model.cut_texts(texts)), model.preprocessing.max_length)

    def blocks(start: int) -> Iterator[StateBlock]:
        """Blocks of texts from one on."""
        for first in range(start, len(texts), _AT_ONCE):
            yield StateBlock(torch.from_numpy(model.encode_texts(texts[first : first + _AT_ONCE])))

    key = combined_key(model=model.fingerprint, texts=list(texts))
    with counting("captions, by the model") as show:
        states = FrozenStates.open_or_compute(
            folder, key, len(texts), (model.embed_dim,), blocks, label="dual-captions", progress=show
        )
    return _normalised(states, torch.arange(len(texts)))


def _normalised(states: FrozenStates, rows: Tensor) -> Tensor:
    """States of some rows, each one vector, L2-normalised [R, W]."""
    width = states.shape[-1]
    features = torch.empty(len(rows), width)
    for some in torch.arange(len(rows)).split(_AT_ONCE):
        features[some] = F.normalize(states.gather(rows[some]).view(len(some), width), dim=1)
    return features


def _captions(
    texts: Sequence[str],
    encoder: SentenceEncoder,
    alignment: bool,
    folder: Path,
    statistics: WordStatistics | None,
    name: str,
    left_out: LeftOut,
) -> tuple[Tensor, TokenStates | None]:
    """Sentence vectors of captions [M, D], and token states if words are to be aligned."""
    encoder.model.to(own_device())
    depth, width = int(encoder.model.config.num_hidden_layers), int(encoder.model.config.hidden_size)
    layers = aligned_layers(depth) if alignment else (depth,)
    longest = min(_LONGEST, encoder.longest)
    lengths = [len(tokens) for tokens in caption_tokens(encoder.tokenizer, texts, max_length=sys.maxsize)]
    left_out.cut(name, texts, dict.fromkeys(np.flatnonzero(np.asarray(lengths) > longest).tolist()), longest)
    with counting("captions") as show:
        cached = cache_caption_states(
            LayerStates(encoder.model, layers),
            texts,
            lambda some: tokenize_captions(encoder.tokenizer, some, max_length=longest),
            folder,
            progress=show,
        )
    first, counts = torch.tensor([cached.places[text] for text in texts]).T.contiguous()  # [M], [M]
    vectors = torch.empty(len(texts), width)
    for some in torch.arange(len(texts)).split(_AT_ONCE):
        mask = torch.arange(int(counts[some].max())) < counts[some][:, None]  # [B, L]
        states = torch.zeros(*mask.shape, width)
        states[mask] = cached.tokens.gather((first[some][:, None] + torch.arange(mask.shape[1]))[mask])[:, -width:]
        vectors[some] = sentence_vectors(states, mask.long())
    if not alignment:
        return vectors, None
    return vectors, _tokens(encoder, texts, cached.tokens, first, counts, longest, len(layers), statistics)


def _tokens(
    encoder: SentenceEncoder,
    texts: Sequence[str],
    states: FrozenStates,
    first: Tensor,
    counts: Tensor,
    longest: int,
    layers: int,
    statistics: WordStatistics | None,
) -> TokenStates:
    """Token states with what each token tells."""
    rarity = (statistics or WordStatistics.of(texts)).rarity
    tokenizer = encoder.tokenizer
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    names = [name.lstrip(_WORD_STARTS) for name in names]
    told = np.array([rarity(name) if is_content(name.lower().removeprefix("##")) else 0.0 for name in names])
    content = torch.zeros(len(states), dtype=torch.bool)
    weights = torch.zeros(len(states))
    for number, ids in enumerate(caption_tokens(tokenizer, texts, max_length=longest)):
        row = int(first[number])
        kept = torch.tensor([token not in special for token in ids])
        content[row : row + len(ids)] = kept
        weights[row : row + len(ids)] = torch.from_numpy(told[ids]).float() * kept
    return TokenStates(states, first, counts, content, weights, layers)
