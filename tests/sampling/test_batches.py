from dataclasses import replace

import numpy as np
import pytest
import torch

from truepair.sampling.batches import (
    GroupedBatches,
    RandomBatches,
    SampledRows,
    SamplerConfig,
    hardest_similarity,
    shared_label_rate,
)
from truepair.sampling.ranks import Ranks


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


def test_a_caption_in_more_rows_than_batches_is_said() -> None:
    keys = np.stack([np.arange(40), np.where(np.arange(40) < 12, 7, np.arange(40))], axis=1)
    rows = SampledRows(count=40, batch_size=4, seed=0, ranks=Ranks(), keys=keys)
    (line,) = GroupedBatches(SamplerConfig(kind="grit"), rows).warnings()
    assert line.startswith("1 picture(s) or caption(s) stand in more rows than the 10 batches of an epoch (the largest")
    assert GroupedBatches(SamplerConfig(kind="grit"), replace(rows, batch_size=2)).warnings() == []
    assert RandomBatches(SamplerConfig(kind="random"), rows).warnings() == []
