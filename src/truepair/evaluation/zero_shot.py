"""Zero-shot classification: the class of an image is the one whose prompts are nearest (Radford et al. 2021)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.evaluation.metrics import Estimate
from truepair.relations.similarity import similarities

_FEW = 6  # below that many classes, the right one is among the first five by little more than chance

_AT_ONCE = 4096  # images


@dataclass(frozen=True)
class ClassFigure:
    """How well the images of one class are recognised.

    Attributes:
        name: of the class.
        images: of the class, one or more.
        top_1: share of them recognised.
        taken_for: the class that the others are most often taken for; None where there are none.
    """

    name: str
    images: int
    top_1: float
    taken_for: str | None


@dataclass(frozen=True)
class ZeroShotResult:
    """Figures of one model on one set; shares between 0 and 1.

    Attributes:
        data: name of the set, with its split.
        images: how many were classified.
        unreadable: how many were left out, since they cannot be read.
        classes: how many there are to choose from.
        templates: prompts of a class.
        top_1: share of images whose own class comes first, with its 95 % interval (Wilson).
        top_5: share whose class is among the first five; None with fewer than six classes.
        class_mean: mean over the classes of their share of images recognised.
        per_class: of every class with images.
    """

    data: str
    images: int
    unreadable: int
    classes: int
    templates: int
    top_1: Estimate
    top_5: Estimate | None
    class_mean: float
    per_class: list[ClassFigure]

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain nested dictionaries, ready for JSON."""
        return asdict(self)

    def worst(self, count: int) -> list[ClassFigure]:
        """The classes that are recognised worst, the worst first."""
        return sorted(self.per_class, key=lambda figure: figure.top_1)[:count]


def class_features(prompts: Tensor) -> Tensor:
    """One feature for each class, as CLIP makes it: the normalised mean of the normalised features of its prompts.

    Args:
        prompts: features of the T prompts of C classes [C, T, E].

    Returns:
        L2-normalised features [C, E].
    """
    return F.normalize(F.normalize(prompts.float(), dim=-1).mean(dim=1), dim=-1)


def place_of_own(images: Tensor, classes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where the own class of each image comes, and which class comes first; of equal ones the first counts as nearer.

    Args:
        images: L2-normalised features [N, E], or [N, Q, E] of a model with queries.
        classes: those of the classes [C, E].
        labels: class of each image, int64 [N].

    Returns:
        How many classes come before the own one, int64 [N]; and the first class, int64 [N].
    """
    places, firsts = [], []
    numbers = torch.arange(len(classes))
    for features, own in zip(images.split(_AT_ONCE), labels.split(_AT_ONCE), strict=True):
        scores = similarities(features, classes)  # [B, C]
        mine = scores.gather(1, own[:, None])  # [B, 1]
        # Not "greater": features that are no numbers must not win.
        before = ~(scores <= mine) | ((scores == mine) & (numbers < own[:, None]))
        places.append(before.sum(dim=1))
        firsts.append(scores.argmax(dim=1))
    return torch.cat(places), torch.cat(firsts)


def zero_shot_result(
    images: Tensor,
    classes: Tensor,
    labels: Tensor,
    names: Sequence[str],
    *,
    data: str,
    templates: int,
    unreadable: int = 0,
) -> ZeroShotResult:
    """Classify images, and measure how well.

    Args:
        images: L2-normalised features [N, E], N at least 1.
        classes: those of the classes [C, E].
        labels: class of each image, int64 [N].
        names: of the C classes.
        data: name of the set.
        templates: how many prompts a class has.
        unreadable: images that were left out.
    """
    places, firsts = place_of_own(images, classes, labels)
    per_class = []
    for label in labels.unique().tolist():
        own = labels == label
        per_class.append(_class_figure(names, label, places[own] < 1, firsts[own]))
    return ZeroShotResult(
        data=data,
        images=len(labels),
        unreadable=unreadable,
        classes=len(names),
        templates=templates,
        top_1=_share(places < 1),
        top_5=_share(places < 5) if len(names) >= _FEW else None,
        class_mean=sum(figure.top_1 for figure in per_class) / len(per_class),
        per_class=per_class,
    )


def _class_figure(names: Sequence[str], label: int, hits: Tensor, firsts: Tensor) -> ClassFigure:
    """Figures of a class of n images: which were recognised [n], and what each was taken for [n]."""
    wrong = firsts[~hits]
    taken_for = names[int(wrong.mode().values)] if len(wrong) else None
    return ClassFigure(names[label], len(hits), float(hits.double().mean()), taken_for)


def _share(hits: Tensor) -> Estimate:
    """The share of hits [N] with its interval."""
    from scipy.stats import binomtest

    right, count = int(hits.sum()), len(hits)
    interval = binomtest(right, count).proportion_ci(method="wilson")
    return Estimate(right / count, float(interval.low), float(interval.high))
