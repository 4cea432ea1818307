import numpy as np
import pytest
import torch

from truepair.sampling.batches import hardest_similarity, shared_label_rate


def test_hardest_similarity_of_a_hand_made_batch() -> None:
    image = torch.eye(3)
    text = torch.tensor([[1.0, 0.5, 0.2], [0.1, 1.0, 0.0], [0.3, 0.4, 1.0]])
    # image to texts: 0.3, 0.5, 0.2; text to images: 0.5, 0.1, 0.4
    assert hardest_similarity(image, text).tolist() == pytest.approx([0.4, 0.3, 0.3])
    assert hardest_similarity(image[:1], text[:1]).tolist() == [-torch.inf]


def test_shared_labels() -> None:
    labels = np.array([1, 1, 2, 2, -1, -1])
    assert shared_label_rate([np.array([0, 1, 2]), np.array([3, 4, 5])], labels) == pytest.approx(1 / 6)
    assert shared_label_rate([], labels) == 0.0
    assert shared_label_rate([np.array([0])], labels) == 0.0
