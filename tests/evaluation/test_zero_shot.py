"""Zero-shot classification against loops that cannot be wrong."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from truepair.evaluation.zero_shot import class_features, place_of_own, zero_shot_result


def made(seed: int, images: int, classes: int, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Features of images and classes, and labels; some classes are alike, so that they tie."""
    generator = torch.Generator().manual_seed(seed)
    of_classes = F.normalize(torch.randint(-1, 2, (classes, width), generator=generator).float() + 0.1, dim=1)
    of_images = F.normalize(torch.randn(images, width, generator=generator), dim=1)
    return of_images, of_classes, torch.randint(classes, (images,), generator=generator)


def ranked(image: Tensor, classes: Tensor) -> list[int]:
    """Classes by similarity; of equal ones the first comes first, as in argmax."""
    scores = (image[None] @ classes.T)[0].tolist()
    return sorted(range(len(classes)), key=lambda label: (-scores[label], label))


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(2, 9))
@settings(max_examples=60)
def test_figures_are_those_of_a_loop(seed: int, count: int, classes: int) -> None:
    images, of_classes, labels = made(seed, count, classes)
    names = [f"class {label}" for label in range(classes)]
    result = zero_shot_result(images, of_classes, labels, names, data="made", templates=1)
    # One image at a time, the product may round otherwise; the order of near ties is that of the whole product.
    scores = (images @ of_classes.T).tolist()
    orders = [sorted(range(classes), key=lambda label, row=row: (-row[label], label)) for row in scores]
    firsts = [order[0] == label for order, label in zip(orders, labels.tolist(), strict=True)]
    assert result.top_1.value == pytest.approx(np.mean(firsts))
    if classes >= 6:
        assert result.top_5 is not None
        among = [label in order[:5] for order, label in zip(orders, labels.tolist(), strict=True)]
        assert result.top_5.value == pytest.approx(np.mean(among))
    else:
        assert result.top_5 is None
    by_class = {
        label: [hit for hit, own in zip(firsts, labels.tolist(), strict=True) if own == label]
        for label in set(labels.tolist())
    }
    assert result.class_mean == pytest.approx(np.mean([np.mean(hits) for hits in by_class.values()]))
    assert {figure.name: figure.top_1 for figure in result.per_class} == pytest.approx(
        {names[label]: np.mean(hits) for label, hits in by_class.items()}
    )
    assert sum(figure.images for figure in result.per_class) == result.images == count
    for figure in result.per_class:
        assert (figure.taken_for is None) == (figure.top_1 == 1.0) and figure.taken_for != figure.name


def test_places_do_not_depend_on_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    images, classes, labels = made(0, 23, 7)
    whole = place_of_own(images, classes, labels)
    monkeypatch.setattr("truepair.evaluation.zero_shot._AT_ONCE", 5)
    parts = place_of_own(images, classes, labels)
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    assert [ranked(image, classes).index(int(label)) for image, label in zip(images, labels, strict=True)] == whole[
        0
    ].tolist()


def test_a_model_whose_features_are_no_numbers_recognises_nothing() -> None:
    _, classes, labels = made(1, 10, 6)
    result = zero_shot_result(torch.full((10, 4), torch.nan), classes, labels, list("abcdef"), data="made", templates=1)
    assert result.top_1.value == 0.0 and result.class_mean == 0.0
    assert result.top_5 is not None and result.top_5.value == 0.0


def test_a_model_that_sees_no_difference_takes_all_for_the_first_class() -> None:
    labels = torch.tensor([0, 1, 2, 2])
    same = torch.ones(1, 4) / 2
    result = zero_shot_result(same.expand(4, 4), same.expand(3, 4), labels, ["a", "b", "c"], data="made", templates=1)
    assert result.top_1.value == 0.25
    assert [(figure.name, figure.top_1, figure.taken_for) for figure in result.worst(2)] == [
        ("b", 0.0, "a"),
        ("c", 0.0, "a"),
    ]


def test_the_interval_is_wilsons() -> None:
    images, classes = torch.eye(2), torch.eye(2)
    labels = torch.tensor([0, 1])
    result = zero_shot_result(images, classes, labels, ["a", "b"], data="made", templates=1)
    z = 1.959963984540054
    assert (result.top_1.value, result.top_1.high) == (1.0, pytest.approx(1.0))
    assert result.top_1.low == pytest.approx(2 / (2 + z**2))


def test_the_feature_of_a_class_is_normalised_before_and_after_the_mean() -> None:
    prompts = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 6)[None, :, None]
    for label, feature in enumerate(class_features(prompts)):
        mean = sum(one / one.norm() for one in prompts[label]) / 5
        torch.testing.assert_close(feature, mean / mean.norm())
