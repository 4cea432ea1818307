"""A frozen model's features of cached states, computed once, are those of each batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.methods.steps import info, pairs, student
from truepair.data.pairs import PairBatch
from truepair.methods import frozen
from truepair.methods.encode import BatchEncoder, EncodedBatch
from truepair.methods.frozen import FrozenOnBatch, FrozenOnStates, frozen_model
from truepair.models.encoders.frozen import FrozenStates, StateBlock
from truepair.models.encoders.frozen_captions import cache_caption_states
from truepair.models.encoders.frozen_images import ImageStates

TABLE = pairs(list(range(6)))
IMAGE_OF_ROW = torch.tensor([2, 0, 0, 3, 2, 0])  # image 1 of the cache is of no row


def batch_of(rows: list[int]) -> PairBatch:
    length = int(TABLE.attention_mask[rows].sum(dim=1).max())
    texts = {name: getattr(TABLE, name)[rows, :length] for name in ("input_ids", "attention_mask")}
    return replace(pairs(rows), **texts)


@pytest.fixture
def encoder(tmp_path: Path) -> BatchEncoder:
    model = student(11).float().eval()
    shape = (5, model.config.image_encoder["hidden_size"])

    def view(number: int) -> FrozenStates:
        states = torch.randn(4, *shape, generator=torch.Generator().manual_seed(number))
        return FrozenStates.open_or_compute(tmp_path, f"{number}" * 16, 4, shape, lambda _: iter([StateBlock(states)]))

    captions = cache_caption_states(
        model.text_encoder, TABLE.captions, lambda texts: (TABLE.input_ids, TABLE.attention_mask), tmp_path
    )
    images = ImageStates((view(0), view(1), view(2)), IMAGE_OF_ROW)
    return BatchEncoder(model, image_cache=images, caption_cache=captions, seed=4)


def test_features_of_all_states_are_those_of_each_batch(encoder: BatchEncoder) -> None:
    once = frozen_model(encoder)
    assert isinstance(once, FrozenOnStates)
    for epoch, rows in enumerate([[5, 0, 3], [1, 4], [0, 1, 2, 3, 4, 5], [2]]):
        encoded = EncodedBatch.of(batch_of(rows), encoder, info(epoch=epoch))
        for found, wanted in zip(once.features(encoded), FrozenOnBatch(encoder).features(encoded), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
            assert not found.requires_grad


def test_without_caches_or_with_too_many_states_it_is_batch_by_batch(
    encoder: BatchEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(frozen_model(BatchEncoder(encoder.model, image_cache=encoder.image_cache)), FrozenOnBatch)
    monkeypatch.setattr(frozen, "_MOST_FEATURES", 3 * 6 + 6)
    assert isinstance(frozen_model(encoder), FrozenOnStates)
    monkeypatch.setattr(frozen, "_MOST_FEATURES", 3 * 6 + 5)
    assert isinstance(frozen_model(encoder), FrozenOnBatch)
