import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.models.fusion.nlvr2 import NEITHER, draw_assignment


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60)
@given(st.integers(1, 7), st.integers(0, 99))
def test_wrong_images_are_allowed_and_differ(count: int, seed: int) -> None:
    known = torch.rand(count, count, generator=generator(seed)) < 0.5
    negatives = ~(known | known.T | torch.eye(count, dtype=torch.bool))
    drawn = draw_assignment(negatives, generator(seed + 1))
    assert drawn.texts.tolist() == [text for text in range(count) if negatives[text].any()]
    for text, (first, second), label in zip(
        drawn.texts.tolist(), drawn.images.tolist(), drawn.labels.tolist(), strict=True
    ):
        wrong = {0: [second], 1: [first], NEITHER: [first, second]}[label]
        assert all(negatives[text, image] for image in wrong) and first != second
        if label != NEITHER:
            assert (first, second)[label] == text


def test_labels_are_equally_likely_and_seeded() -> None:
    negatives = ~torch.eye(3000, dtype=torch.bool)
    drawn = draw_assignment(negatives, generator(0))
    assert (torch.bincount(drawn.labels, minlength=3) / 3000 - 1 / 3).abs().max() < 0.04
    assert torch.equal(drawn.images, draw_assignment(negatives, generator(0)).images)
