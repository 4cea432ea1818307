"""Candidate captions and their truth, from the texts of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.errors import DataError
from truepair.evaluation.truth import RetrievalTruth
from truepair.relations.text import normalise_caption

Labels = Sequence[str | None]


@dataclass(frozen=True)
class CaptionGallery:
    """The distinct caption texts of a set of images, and which of them are true of which image.

    Attributes:
        texts: one text for each candidate caption, as first written.
        truth: relations between the images and ``texts``.
    """

    texts: list[str]
    truth: RetrievalTruth

    @classmethod
    def from_names(
        cls,
        own: Sequence[Sequence[str]],
        names: Sequence[Sequence[str] | None] | None = None,
        groups: Labels | None = None,
        families: Labels | None = None,
        near: Sequence[Sequence[str] | None] | None = None,
    ) -> "CaptionGallery":
        """Build the gallery; texts that are equal after normalisation are one candidate, true of all their images.

        Args:
            own: for each image, the captions the data set declares as its own.
            names: for each image, all captions known to be true of it (the own ones need not be repeated);
                None for an image: no more than its own.
            groups: for each image, what it shows: a caption true of one image of a group is true of all of them. None
                for an image: it stands alone.
            families: for each image, a wider class. A caption true of another image of the same family, but not of
                this one, is ignored: a near-match. None for an image: nothing is ignored.
            near: for each image, captions judged to match it nearly; ignored, too, unless they are true.

        Raises:
            DataError: if the sequences differ in length, or a caption is blank.
        """
        for title, given in (("names", names), ("groups", groups), ("families", families), ("near", near)):
            if given is not None and len(given) != len(own):
                raise DataError(f"{title} has {len(given)} entries for {len(own)} images; give one entry an image")
        texts: dict[str, int] = {}
        written: list[str] = []
        own_numbers = [_number(captions, texts, written) for captions in own]
        true_numbers = own_numbers
        if names is not None:
            true_numbers = [
                mine | _number(also or (), texts, written) for mine, also in zip(own_numbers, names, strict=True)
            ]
        if groups is not None:
            true_numbers = _widen(true_numbers, groups)
        ignored = [_number(captions or (), texts, written) for captions in near or [()] * len(own)]
        if families is not None:
            wider = _widen(true_numbers, families)
            ignored = [judged | alike for judged, alike in zip(ignored, wider, strict=True)]
        ignored = [nearly - true for nearly, true in zip(ignored, true_numbers, strict=True)]
        truth = RetrievalTruth(len(own), len(written), _pairs(own_numbers), _pairs(true_numbers), _pairs(ignored))
        return cls(texts=written, truth=truth)


def _number(captions: Sequence[str], texts: dict[str, int], written: list[str]) -> set[int]:
    """Candidate numbers of some captions; unseen texts are added to ``texts`` and ``written``."""
    numbers = set()
    for caption in captions:
        key = normalise_caption(caption)
        if not key:
            raise DataError("a caption is blank; remove it, or leave out its image")
        if key not in texts:
            texts[key] = len(written)
            written.append(caption)
        numbers.add(texts[key])
    return numbers


def _widen(numbers: list[set[int]], labels: Labels) -> list[set[int]]:
    """For each image the union of the sets of all images with its label; its own set where the label is None."""
    shared: dict[str, set[int]] = {}
    for label, mine in zip(labels, numbers, strict=True):
        if label is not None:
            shared.setdefault(label, set()).update(mine)
    return [mine if label is None else shared[label] for label, mine in zip(labels, numbers, strict=True)]


def _pairs(numbers: list[set[int]]) -> Tensor:
    """(image, caption) pairs, int64 [N, 2]."""
    flat = [(image, caption) for image, captions in enumerate(numbers) for caption in captions]
    return torch.tensor(flat, dtype=torch.int64).reshape(-1, 2)
