import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2

from tests.data.makers import noise
from truepair.data import TransformConfig, build_transform
from truepair.data.transforms import ASPECTS, NORMALISATIONS, _drawn, _Resize
from truepair.errors import ConfigError
from truepair.randomness import isolated_rng


def v2_tensor(image, normalisation):
    mean, std = NORMALISATIONS[normalisation]
    return v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])(image)


@pytest.mark.parametrize("normalisation", ["clip", "imagenet", "none"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_evaluation_is_a_resize_and_a_normalisation(normalisation, interpolation):
    image = noise(1, (50, 31))
    config = TransformConfig(size=24, normalisation=normalisation, interpolation=interpolation)

    tensor = build_transform(config, train=False)(image)

    resized = v2.functional.resize(image, [24, 24], interpolation=InterpolationMode(interpolation))
    one = max(1 / (255 * std) for std in NORMALISATIONS[normalisation][1])  # of 255
    torch.testing.assert_close(tensor, torch.Tensor(v2_tensor(resized, normalisation)), atol=1.01 * one, rtol=0)
    assert (tensor.dtype, tensor.shape, tensor.is_contiguous()) == (torch.float32, (3, 24, 24), True)
    assert type(tensor) is torch.Tensor


def test_the_centre_can_be_cropped_in_place_of_squashing():
    image = Image.new("RGB", (60, 20), "red")
    image.paste("blue", (20, 0, 40, 20))

    tensor = build_transform(
        TransformConfig(size=10, evaluation_resize="crop", normalisation="none", interpolation="bilinear"), train=False
    )(image)

    assert tensor[2, :, 3:7].eq(1).all() and tensor[0, :, 3:7].eq(0).all()


def test_training_without_augmentation_is_evaluation():
    config = TransformConfig(size=16, crop_scale=(1.0, 1.0), flip=0.0, rand_augment_ops=0)

    plain = [build_transform(config, train=train)(noise(2)) for train in (True, False)]

    assert torch.equal(*plain)


def test_a_flip_alone():
    config = TransformConfig(size=16, crop_scale=(1.0, 1.0), flip=1.0, rand_augment_ops=0)
    image = noise(2)

    flipped = build_transform(config, train=True)(image)

    assert torch.equal(flipped.flip(2), build_transform(config, train=False)(image))


def test_draws_come_from_torch_alone():
    transform = build_transform(TransformConfig(size=16), train=True)
    image = noise(4)
    random.seed(1)
    np.random.seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist()
    results = []
    for seed in (1, 1, 2):
        with isolated_rng(seed):
            results.append(transform(image))

    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


def test_crops_keep_the_stated_share_of_the_area():
    # A picture of which each pixel tells its place: the corners of the crop can be read off.
    ramp = np.zeros((256, 256, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(256)[None, :], np.arange(256)[:, None]
    config = TransformConfig(
        size=64, crop_scale=(0.3, 0.6), flip=0.0, rand_augment_ops=0, normalisation="none", interpolation="bilinear"
    )
    transform = build_transform(config, train=True)

    shares = []
    for seed in range(40):
        with isolated_rng(seed):
            cropped = transform(Image.fromarray(ramp)) * 255
        width, height = (cropped[c].max() - cropped[c].min() for c in (0, 1))
        shares.append(float(width * height) / 256**2)

    assert 0.27 < min(shares) < 0.35 and 0.55 < max(shares) < 0.62


def test_images_are_not_decoded_smaller_than_a_crop_needs():
    assert build_transform(TransformConfig(size=100), train=False).min_side == 100
    # 20 % of the area at an aspect ratio of 3/4.
    assert build_transform(TransformConfig(size=100, crop_scale=(0.2, 1.0)), train=True).min_side == 259


def test_a_transform_can_be_sent_to_a_worker():
    transform = build_transform(TransformConfig(size=16), train=False)

    assert torch.equal(pickle.loads(pickle.dumps(transform))(noise(5)), transform(noise(5)))  # noqa: S301


def test_statistics_of_the_encoder():
    config = TransformConfig(size=8, normalisation="encoder")
    statistics = ([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])

    tensor = build_transform(config, train=False, encoder_statistics=statistics)(Image.new("RGB", (8, 8), "white"))

    torch.testing.assert_close(tensor, torch.full((3, 8, 8), 2.0))
    with pytest.raises(ConfigError, match="no image encoder is given"):
        build_transform(config, train=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"normalisation": "inception"},
        {"interpolation": "box"},
        {"evaluation_resize": "pad"},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.9, 0.2)},
        {"flip": 1.5},
        {"size": -1},
    ],
)
def test_options_without_a_meaning_are_errors(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TransformConfig(**wrong)


@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.9, 1.0), (0.05, 0.3), (0.999, 1.0)])
def test_crops_are_those_of_torchvision_and_so_is_what_they_draw(scale):
    for height, width in ((192, 192), (480, 640), (7, 300), (300, 9), (1, 1), (2, 3)):
        for seed in range(60):
            with isolated_rng(seed):
                part = _drawn(scale, (5, 5), height, width)
                ours = (part.top, part.left, part.height, part.width), float(torch.rand(()))
            with isolated_rng(seed):
                shape = torch.empty((1, height, width), device="meta")
                crop = RandomResizedCrop.get_params(shape, list(scale), list(ASPECTS))
                assert ours == (crop, float(torch.rand(())))


def test_resizing_is_that_of_torchvision():
    pixels = torch.randint(0, 256, (50, 31, 4), dtype=torch.uint8)
    for interpolation in ("bicubic", "bilinear"):
        for size in (24, (24, 24), (90, 70), (1, 7), 31, (50, 31)):
            for part in (pixels, pixels[3:30, 5:24], pixels[:1], pixels[:, :1]):
                sides = [size] if isinstance(size, int) else list(size)
                planar = part[..., :3].permute(2, 0, 1).contiguous()
                expected = v2.functional.resize(planar, sides, InterpolationMode(interpolation), antialias=True)
                assert torch.equal(_Resize(size, interpolation)(part)[..., :3].permute(2, 0, 1), expected)
