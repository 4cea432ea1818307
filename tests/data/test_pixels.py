"""Parts of images as tensors: the pixels and the refusals of whole images of Pillow, whatever decodes them."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.pillow_path import pillow_transform
from PIL import Image
from torch import Tensor

from tests.data.makers import encoded
from tests.data.odd_images import OTHERS, PLAIN, picture
from truepair.data import TransformConfig, build_transform, load_image
from truepair.data import pixels as decoding
from truepair.data.images import BadImageError
from truepair.data.pixels import Part, as_pixels, load_part
from truepair.data.transforms import NORMALISATIONS
from truepair.randomness import isolated_rng


def colours(pixels: Tensor) -> Tensor:
    """What an image [H, W, 4] shows: its fourth channel has no meaning."""
    return pixels[..., :3]


def whole(height: int, width: int) -> Part:
    return Part(0, 0, height, width, (height, width))


def test_a_part_is_that_of_the_upright_image(decoder: list[int]) -> None:
    for data in (PLAIN["coarse"], OTHERS["turned 6"], OTHERS["PNG"]):
        pixels = load_part({"bytes": data}, lambda height, width: Part(5, 7, height - 20, width - 30, (1000, 1000)))

        image = load_image({"bytes": data})
        kept = image.crop((7, 5, image.width - 23, image.height - 15))
        assert torch.equal(colours(pixels), colours(as_pixels(kept)))


@pytest.mark.parametrize("size", [(41, 30), (2600, 2100)])
def test_pixels_are_those_of_the_image_however_large_it_is(size: tuple[int, int]) -> None:
    image = picture((41, 30)).resize(size)  # Pillow keeps more than 16 MB in several blocks
    expected = torch.from_numpy(np.array(image))

    pixels = as_pixels(image)
    del image

    assert pixels.shape == (size[1], size[0], 4) and pixels.is_contiguous()
    assert torch.equal(colours(pixels), expected)


@pytest.mark.parametrize(("side", "reduction"), [(400, 1), (161, 1), (160, 2), (81, 2), (80, 4), (40, 8), (10, 8)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_decoded_at_the_least_size_that_its_part_needs(
    side: int, reduction: int, orientation: int, decoder: list[int], request: pytest.FixtureRequest
) -> None:
    # Of 800 x 1,000 pixels, a part of 320 x 400 begins at (403, 111): 320 pixels are enough for a side of 160 at half.
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture((1000, 800) if orientation == 1 else (800, 1000)), "JPEG", exif=exif.tobytes())

    pixels = load_part({"bytes": data}, lambda height, width: Part(111, 403, 320, 400, (side, side)))

    least = 800 // reduction
    reduced = load_image({"bytes": data}, min_side=least)
    assert min(reduced.size) == least
    box = (403 // reduction, 111 // reduction, math.ceil(803 / reduction), math.ceil(431 / reduction))
    assert torch.equal(colours(pixels), colours(as_pixels(reduced.crop(box))))
    assert min(pixels.shape[:2]) >= min(side, 320)
    assert bool(decoder) == (reduction == 1 and orientation == 1 and request.node.fast)


def test_damaged_images_are_refused_in_the_same_words_and_all_others_read(decoder: list[int]) -> None:
    def shown(pixels: Tensor) -> tuple[torch.Size, bytes]:
        return pixels.shape, colours(pixels).numpy().tobytes()

    def outcome(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except BadImageError as error:
            return str(error)

    draw = random.Random(3)
    refused = read = 0
    for data in PLAIN.values():
        damaged = [data[: draw.randrange(len(data))] for _ in range(12)] + [data[:-1], b""]
        for _ in range(25):
            changed = bytearray(data)
            changed[draw.randrange(len(data))] = draw.randrange(256)
            damaged.append(bytes(changed))
        for part in damaged:
            stored = {"bytes": part}
            ours = outcome(lambda stored=stored: shown(load_part(stored, whole)))  # type: ignore[misc]
            theirs = outcome(lambda stored=stored: shown(as_pixels(load_image(stored))))  # type: ignore[misc]
            assert ours == theirs
            refused, read = refused + isinstance(ours, str), read + isinstance(ours, tuple)
    assert refused > 60 and read > 60


def test_size_is_bounded_before_anything_is_decoded(decoder: list[int]) -> None:
    with pytest.raises(BadImageError, match="160 x 120 pixels; shrink it, or raise max_pixels"):
        load_part({"bytes": PLAIN["fine"]}, whole, max_pixels=19_199)
    assert not decoder
    assert load_part({"bytes": PLAIN["fine"]}, whole, max_pixels=19_200).shape == (120, 160, 4)


def test_want_of_memory_is_a_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(encoded: bytes, mode: str) -> Any:
        raise MemoryError

    monkeypatch.setattr(decoding, "_decoder", lambda: decoding._Decoder("starved", starved))
    monkeypatch.setattr("truepair.data.images.to_rgb", lambda *_: (_ for _ in ()).throw(MemoryError))

    with pytest.raises(BadImageError, match="needs more memory than there is"):
        load_part({"bytes": PLAIN["fine"]}, whole)


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether 999 of 1,000 values of two tensors, normalised as for CLIP, differ by 2 of 255 at most."""
    std = torch.tensor(NORMALISATIONS["clip"][1])[:, None, None]
    far = ((ours - theirs) * std * 255).abs() > 2.01
    return float(far.float().mean()) <= 1e-3


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.9, 1.0)])
def test_training_makes_the_pixels_of_pillow(
    interpolation: str, scale: tuple[float, float], decoder: list[int]
) -> None:
    for size in (64, 150):
        config = TransformConfig(size=size, crop_scale=scale, interpolation=interpolation, rand_augment_ops=0)
        ours, theirs = build_transform(config, train=True), pillow_transform(config)
        for seed in range(12):
            stored = {"bytes": encoded(picture((80 + seed * 7, 120)), "JPEG", quality=90)}
            with isolated_rng(seed):
                tensor = ours.read(stored)
            with isolated_rng(seed):
                assert same(tensor, torch.Tensor(theirs(load_image(stored))))


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("size", [50, 200])
def test_evaluation_makes_the_pixels_of_pillow(resize: str, size: int, decoder: list[int]) -> None:
    config = TransformConfig(size=size, evaluation_resize=resize)
    for data in (encoded(picture((640, 480)), "JPEG"), PLAIN["coarse"], OTHERS["turned 8"], OTHERS["PNG"]):
        transform = build_transform(config, train=False)
        image = load_image({"bytes": data}, min_side=size)
        ratio = size / min(image.size)
        sides = (size, size) if resize == "squash" else (int(image.width * ratio), int(image.height * ratio))
        resized = image.resize(sides, Image.Resampling.BICUBIC)
        left, top = round((sides[0] - size) / 2), round((sides[1] - size) / 2)
        pixels = colours(as_pixels(resized.crop((left, top, left + size, top + size)))).permute(2, 0, 1)
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in NORMALISATIONS["clip"])
        assert same(transform.read({"bytes": data}), (pixels / 255 - mean) / std)


def test_reading_is_transforming_what_is_read_at_full_size() -> None:
    transform = build_transform(TransformConfig(size=100), train=True)
    stored = {"bytes": PLAIN["coarse"]}

    for seed in range(5):
        with isolated_rng(seed):
            read = transform.read(stored)
        with isolated_rng(seed):
            assert torch.equal(read, transform(load_image(stored)))
