"""Image states of a table: equal to the encoder's, once per image, keyed by all they depend on."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from truepair.data.images import BadImageError
from truepair.data.pairs import PairDataset
from truepair.data.table import PairTable
from truepair.data.transforms import TransformConfig, build_transform
from truepair.errors import ConfigError
from truepair.models.encoders.conv_stem import ConvStem, ConvStemConfig
from truepair.models.encoders.frozen_images import ImageStates, cache_image_states
from truepair.sampling.batches import Visit

IMAGES = 7
PLAIN = TransformConfig(size=32, normalisation="imagenet")


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def table(broken: int | None = None, first_id: int = 100) -> PairTable:
    """Two rows, of two captions, for each image; ids that fall, so that order by id is not order by row."""
    rows = [number for number in range(IMAGES) for _ in range(2)]
    columns = {
        "image": [{"bytes": b"damaged" if number == broken else png(number), "path": None} for number in rows],
        "image_id": [first_id - number for number in rows],
        "captions": [[f"caption {place}"] for place in range(len(rows))],
        "caption_ids": [[place] for place in range(len(rows))],
        "split": ["train"] * len(rows),
    }
    return PairTable(Dataset.from_dict(columns))


def dataset(config: TransformConfig = PLAIN, *, train: bool = False, **options: int) -> PairDataset:
    return PairDataset(table(**options), build_transform(config, train=train))


@pytest.fixture
def encoder() -> ConvStem:
    torch.manual_seed(0)
    return ConvStem(ConvStemConfig(image_size=32, hidden_size=32, num_hidden_layers=1, dropout=0.5))


def directly(encoder: ConvStem, data: PairDataset, visits: list[Visit]) -> torch.Tensor:
    with torch.inference_mode():
        return encoder.eval()(torch.stack([data[visit]["pixel_values"] for visit in visits]))


def caches(folder: Path) -> int:
    return len(list(folder.glob("images-*/manifest.json")))


@pytest.mark.parametrize("workers", [0, 1])
def test_states_equal_the_encoders(workers: int, encoder: ConvStem, tmp_path: Path) -> None:
    data = dataset()
    states = cache_image_states(encoder.train(), data, tmp_path, batch_size=3, workers=workers)
    assert encoder.training, "the caller's mode comes back"
    assert len(states) == 2 * IMAGES and len(states.views[0]) == IMAGES, "each image is stored once"
    rows = [13, 0, 1, 6, 0]
    expected = directly(encoder, data, [Visit(0, row) for row in rows])
    torch.testing.assert_close(states[rows], expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(states[torch.tensor(rows)], states.visit(rows, epoch=5))
    assert torch.equal(states[slice(3, 6)], states[[3, 4, 5]])
    assert states.unreadable == {} and states.readable.tolist() == list(range(2 * IMAGES))


def test_key_is_of_weights_pixels_ids_and_preprocessing(encoder: ConvStem, tmp_path: Path) -> None:
    def cache(data: PairDataset, preprocessing: object = None) -> ImageStates:
        return cache_image_states(encoder, data, tmp_path, preprocessing=preprocessing)

    cache(dataset())
    cache(dataset())
    assert caches(tmp_path) == 1
    cache(dataset(TransformConfig(size=32, normalisation="clip")))
    assert caches(tmp_path) == 2
    cache(dataset(first_id=200))
    assert caches(tmp_path) == 3
    cache(dataset(), preprocessing={"size": 32})
    assert caches(tmp_path) == 4
    with torch.no_grad():
        encoder.norm.bias[0] += 1e-6
    cache(dataset())
    assert caches(tmp_path) == 5


def test_key_is_of_what_weights_do_not_tell(encoder: ConvStem, tmp_path: Path) -> None:
    cache_image_states(encoder, dataset(), tmp_path)
    other = ConvStem(ConvStemConfig(image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    other.load_state_dict(encoder.state_dict())
    cache_image_states(other, dataset(), tmp_path)
    assert caches(tmp_path) == 2
    encoder.freeze()
    cache_image_states(encoder, dataset(), tmp_path)
    assert caches(tmp_path) == 2


def test_views_are_the_augmented_images_of_the_first_epochs(encoder: ConvStem, tmp_path: Path) -> None:
    plain, augmented = dataset(), dataset(train=True)
    states = cache_image_states(encoder, plain, tmp_path, augmented=augmented, views=3)
    assert states.nbytes == 3 * states.views[0].nbytes
    rows = [0, 2, 4, 6]
    for view, data in enumerate([plain, augmented, augmented]):
        expected = directly(encoder, data, [Visit(view, row) for row in rows])
        torch.testing.assert_close(states.views[view].gather(states.image_rows[rows]), expected, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(states.views[1][[0]], states.views[2][[0]], atol=0.01)


def test_each_view_is_shown_once_in_as_many_epochs(encoder: ConvStem, tmp_path: Path) -> None:
    states = cache_image_states(encoder, dataset(), tmp_path, augmented=dataset(train=True), views=3)
    rows = torch.arange(2 * IMAGES)
    shown = torch.stack([states.visit(rows, epoch, seed=4) for epoch in range(3)])  # [epochs, T, N, W]
    stored = torch.stack([view.gather(states.image_rows[rows]) for view in states.views])
    torch.testing.assert_close(shown.sum(dim=0), stored.sum(dim=0))
    assert not torch.equal(shown[0], shown[1])
    of_view = [(shown[0] == view).flatten(1).all(dim=1).sum() for view in stored]
    assert min(of_view) >= 2 * (IMAGES // 3), "a batch shows all views"


def test_more_views_later_reuse_those_that_are_there(encoder: ConvStem, tmp_path: Path) -> None:
    cache_image_states(encoder, dataset(), tmp_path)
    cache_image_states(encoder, dataset(), tmp_path, augmented=dataset(train=True), views=2)
    assert caches(tmp_path) == 2
    with pytest.raises(ConfigError, match="2 views need the augmented dataset"):
        cache_image_states(encoder, dataset(), tmp_path, views=2)


def test_unreadable_images_are_recorded_and_survive_reopening(encoder: ConvStem, tmp_path: Path) -> None:
    for _ in range(2):
        states = cache_image_states(encoder, dataset(broken=2), tmp_path)
        assert sorted(states.unreadable) == [4, 5] and "embedded image" in states.unreadable[4]
        assert states.readable.tolist() == [row for row in range(2 * IMAGES) if row not in (4, 5)]


def test_dataset_without_substitutes_stops_at_an_unreadable_image(encoder: ConvStem, tmp_path: Path) -> None:
    strict = PairDataset(table(broken=2), build_transform(PLAIN, train=False), substitutes=0)
    with pytest.raises(BadImageError):
        cache_image_states(encoder, strict, tmp_path)
    assert caches(tmp_path) == 0


def test_caches_of_one_folder_do_not_depend_on_batch_size(encoder: ConvStem, tmp_path: Path) -> None:
    cache_image_states(encoder, dataset(), tmp_path, batch_size=2)
    cache_image_states(encoder, dataset(), tmp_path, batch_size=5)
    assert caches(tmp_path) == 1
