"""The judge of an image that has several captions and a caption of another one: all evidence, and its probability."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.data.tokens import tokenize_captions
from truepair.errors import DataError
from truepair.judges.calibration import fit_logistic
from truepair.judges.caption_evidence import (
    ALIGNMENT_TERMS,
    Projection,
    owners_and_places,
    relative_similarity,
    set_similarity,
    token_alignment,
)
from truepair.judges.caption_words import WordStatistics, is_content, kind_evidence, named_groups
from truepair.models.encoders.minilm import MiniLM, sentence_vectors
from truepair.relations.pairs import PairSet

ALIGNED_LAYERS = (2, 3, 4, 5, 6)

_MAX_LENGTH = 32

_AT_ONCE = 64

Evidence = dict[str, Tensor]
"""Columns of evidence on P pairs by the name of their family [P, columns]."""


@dataclass(frozen=True)
class CaptionFeatures:
    """What the captions of N images, K each, are compared by.

    Attributes:
        captions: the texts.
        vectors: sentence vectors, L2-normalised [N, K, D].
        states: L2-normalised token states of S layers, zero on padding, float16 [S, N, K, L, D].
        mask: tokens without special ones and padding, bool [N, K, L].
        weights: rarity of the tokens of content words, 0 elsewhere [N, K, L].
    """

    captions: list[list[str]]
    vectors: Tensor
    states: Tensor
    mask: Tensor
    weights: Tensor

    @classmethod
    @torch.inference_mode()
    def encode(
        cls,
        captions: Sequence[Sequence[str]],
        minilm: MiniLM,
        statistics: WordStatistics,
        layers: Sequence[int] = ALIGNED_LAYERS,
    ) -> Self:
        """Encode the captions of N images.

        Args:
            captions: K texts of each image; what is beyond 32 tokens is cut.
            minilm: the sentence encoder.
            statistics: rarity of words.
            layers: whose token states are kept; the last is 6.

        Raises:
            DataError: the images differ in their numbers of captions, or have but one.
        """
        each = {len(own) for own in captions}
        if len(each) != 1 or min(each) < 2:
            raise DataError("caption evidence needs the same number of captions for each image, 2 or more")
        shape = (len(captions), each.pop())
        texts = [text for own in captions for text in own]
        ids, mask = tokenize_captions(minilm.tokenizer, texts, max_length=_MAX_LENGTH)  # [T, L], [T, L]
        vectors = torch.empty(len(ids), minilm.model.config.hidden_size)
        states = torch.zeros(len(layers), *ids.shape, vectors.shape[1], dtype=torch.half)
        for some in mask.sum(dim=1).argsort(stable=True).split(_AT_ONCE):  # of about the same length: little padding
            shown = slice(_longest(mask[some]))
            found = minilm.model(ids[some, shown], mask[some, shown], output_hidden_states=True)
            vectors[some] = sentence_vectors(found.last_hidden_state, mask[some, shown])
            for number, layer in enumerate(layers):
                states[number, some, shown] = F.normalize(found.hidden_states[layer], dim=-1).half()
        special = torch.isin(ids, torch.tensor(minilm.tokenizer.all_special_ids))
        names = minilm.tokenizer.convert_ids_to_tokens(range(len(minilm.tokenizer)))
        told = torch.tensor([statistics.rarity(name) if is_content(name.removeprefix("##")) else 0.0 for name in names])
        content = mask.bool() & ~special  # [T, L]
        return cls(
            [list(own) for own in captions],
            vectors.view(*shape, -1),
            states.view(len(layers), *shape, *states.shape[2:]),
            content.view(*shape, -1),
            (told[ids] * content).view(*shape, -1),
        )

    def align(self, pairs: PairSet) -> Tensor:
        """Token alignment in every layer [P, 3 * layers], see `token_alignment`."""
        found = torch.zeros(len(pairs), len(ALIGNMENT_TERMS) * len(self.states))
        owners, places = owners_and_places(pairs)
        for image in pairs.rows.unique().tolist():
            here = (pairs.rows == image).nonzero()[:, 0]  # [B]
            cells = (owners[here], places[here])
            lengths = [_longest(self.mask[cells]), _longest(self.mask[image])]
            columns = [
                token_alignment(
                    states[cells][:, : lengths[0]].float(),
                    self.mask[cells][:, : lengths[0]],
                    self.weights[cells][:, : lengths[0]],
                    states[image, :, : lengths[1]].float(),
                    self.mask[image, :, : lengths[1]],
                )
                for states in self.states
            ]
            found[here] = torch.cat(columns, dim=1)
        return found


def caption_evidence(features: CaptionFeatures, space: Projection, pairs: PairSet) -> Evidence:
    """All evidence on pairs, by family.

    Args:
        features: of all images that captions are compared with; the gallery of "others".
        space: fitted on training captions.
        pairs: P pairs of an image and a caption of another one, from ``caption_pairs``.
    """
    groups = named_groups([text for own in features.captions for text in own]).view(*features.mask.shape[:2], -1)
    return {
        "alignment": features.align(pairs),
        "learned similarity": set_similarity(space(features.vectors), pairs),
        "relative": relative_similarity(features.vectors, pairs),
        "kinds": kind_evidence(groups.flatten(0, 1)[pairs.columns], groups[pairs.rows]),
    }


@dataclass(frozen=True)
class CaptionJudge:
    """Logistic regression on the evidence; its probabilities are as sure as the judged pairs it was fitted on.

    Attributes:
        families: names of the evidence that is used.
        centre: mean of each column [F].
        spread: standard deviation of each column [F].
        weights: a weight per column, and the constant [F + 1].
    """

    families: tuple[str, ...]
    centre: Tensor
    spread: Tensor
    weights: Tensor

    @classmethod
    def fit(cls, evidence: Evidence, labels: Tensor, *, l2: float = 0.03) -> Self:
        """Fit on judged pairs.

        Args:
            evidence: on P pairs.
            labels: which of them match, bool [P].
            l2: penalty, see `fit_logistic`.

        Raises:
            DataError: all labels are the same.
        """
        inputs = torch.cat(list(evidence.values()), dim=1).double()  # [P, F]
        centre, spread = inputs.mean(dim=0), inputs.std(dim=0).clamp(min=1e-6)
        return cls(tuple(evidence), centre, spread, fit_logistic((inputs - centre) / spread, labels, l2=l2))

    def probabilities(self, evidence: Evidence) -> Tensor:
        """Match probabilities of pairs, float64 [P]."""
        inputs = torch.cat([evidence[family] for family in self.families], dim=1).double()
        return ((inputs - self.centre) / self.spread @ self.weights[:-1] + self.weights[-1]).sigmoid()


def _longest(mask: Tensor) -> int:
    """Positions up to the last token of any caption, at least one, of a mask [..., L]."""
    used = mask.flatten(0, -2).any(dim=0)  # [L]
    return max(int((used * torch.arange(1, len(used) + 1)).max()), 1)
