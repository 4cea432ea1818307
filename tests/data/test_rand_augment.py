"""RandAugment on tensors: each operation does what Pillow's does."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from benchmarks.pillow_path import OPERATIONS, PillowRandAugment
from PIL import Image, ImageFilter
from torch import Tensor

from tests.data.makers import noise
from truepair.data import rand_augment as augment
from truepair.data.pixels import as_image, as_pixels
from truepair.data.rand_augment import AlbefRandAugment
from truepair.errors import ConfigError
from truepair.randomness import isolated_rng

NAMES = [operation.__name__ for operation in OPERATIONS]


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Smooth, with sharp parts, and without the darkest and the brightest values."""
    image = noise(seed, size).filter(ImageFilter.GaussianBlur(3))
    image.paste(noise(seed + 1, (size[0] // 2, size[1] // 3)), (size[0] // 4, 0))
    return image.point(lambda value: value // 2 + 40)


def farthest(pixels: Tensor, image: Image.Image) -> int:
    return int((pixels.int() - as_pixels(image).int())[..., :3].abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_that_of_pillow(name: str) -> None:
    ours, theirs = getattr(augment, name), OPERATIONS[NAMES.index(name)]

    for seed, size in enumerate([(64, 48), (37, 53), (224, 224), (3, 2), (1, 1), (5, 300)]):
        image = picture(seed, size)
        for strength in (-1.0, -0.7, -0.1, 0.0, 0.3, 0.7, 1.0):
            assert farthest(ours(as_pixels(image), strength), theirs(image, strength)) <= 1, (size, strength)


@pytest.mark.parametrize("name", ["_identity", "_auto_contrast", "_equalise", "_brightness", "_translate_x"])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (7, 130, 255)])
def test_pictures_of_one_or_two_colours(name: str, colour: tuple[int, int, int]) -> None:
    for second in (colour, (9, 131, 0)):
        image = Image.new("RGB", (30, 30), colour)
        image.paste(second, (0, 0, 9, 30))

        expected = OPERATIONS[NAMES.index(name)](image, 0.7)

        assert farthest(getattr(augment, name)(as_pixels(image), 0.7), expected) == 0


def test_it_draws_the_same_operations_as_pillow_does() -> None:
    image = picture(1, (60, 60))
    ours, theirs = AlbefRandAugment(1, 7), PillowRandAugment(1, 7)

    for seed in range(60):
        with isolated_rng(seed):
            pixels = ours(as_pixels(image))
        with isolated_rng(seed):
            assert farthest(pixels, theirs(image)) <= 1


def test_an_operation_leaves_its_input_and_the_layout_of_its_memory_alone() -> None:
    pixels = as_pixels(picture(2, (30, 30)))[3:17, 5:25]  # rows do not follow each other in memory
    before = pixels.clone()

    for operation in augment._OPERATIONS:
        for strength in (-0.7, 0.0, 1.0):
            result = operation(pixels, strength)
            copied = operation(pixels.contiguous(), strength)
            assert (result.shape, result.dtype) == (pixels.shape, torch.uint8)
            assert torch.equal(result, copied)

    assert torch.equal(pixels, before)


def test_it_draws_each_of_ten_operations_half_the_time_and_either_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Counter[tuple[int, float]] = Counter()

    def counting(number):
        def operation(pixels, strength):
            drawn[number, strength] += 1
            return pixels

        return operation

    monkeypatch.setattr(augment, "_OPERATIONS", tuple(counting(number) for number in range(10)))
    rand_augment = AlbefRandAugment(ops=2, level=7)
    with isolated_rng("draws"):
        for _ in range(2000):
            rand_augment(torch.zeros(2, 2, 4, dtype=torch.uint8))

    assert {number for number, _ in drawn} == set(range(10))
    assert {strength for _, strength in drawn} == {0.7, -0.7}
    assert 1900 < drawn.total() < 2100
    assert min(drawn.values()) > 60


def test_no_operations_change_nothing() -> None:
    pixels = as_pixels(noise(1))

    assert AlbefRandAugment(ops=0)(pixels) is pixels


def test_only_the_identity_leaves_a_picture_as_it_is() -> None:
    pixels = as_pixels(picture(3, (40, 40)))

    assert [one.__name__ for one in augment._OPERATIONS if torch.equal(one(pixels, 0.7), pixels)] == ["_identity"]


def test_translation_moves_by_a_tenth_of_its_level_in_pixels_and_fills_with_grey() -> None:
    image = noise(4, (30, 20))

    moved = np.array(as_image(augment._translate_x(as_pixels(image), 0.7)))

    assert (moved[:, :23] == np.array(image)[:, 7:]).all()
    assert (moved[:, 23:] == 128).all()


@pytest.mark.parametrize(("ops", "level"), [(-1, 5), (2, 11), (2, -1)])
def test_impossible_strengths_are_errors(ops: int, level: int) -> None:
    with pytest.raises(ConfigError, match="rand_augment"):
        AlbefRandAugment(ops, level)


@pytest.mark.parametrize("name", ["_shear_x", "_shear_y", "_rotate"])
def test_pictures_of_hard_edges_are_within_one(name: str) -> None:
    """Where neighbours are black and white, rounded shares make most of a difference."""
    for size in [(64, 64), (150, 90), (33, 600), (700, 20)]:
        image = Image.fromarray((np.random.default_rng(5).integers(0, 2, (size[1], size[0], 3)) * 255).astype(np.uint8))
        for strength in (-1.0, -0.7, 0.1, 0.5):
            expected = OPERATIONS[NAMES.index(name)](image, strength)
            assert farthest(getattr(augment, name)(as_pixels(image), strength), expected) <= 1, (size, strength)


def test_moves_by_strips_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = as_pixels(picture(5, (90, 70)))
    moves = [partial(augment._rotate, strength=0.7), partial(augment._shear_y, strength=-0.5)]
    whole = [move(pixels) for move in moves]

    for strip in (1, 90, 1000):
        augment._move.cache_clear()
        monkeypatch.setattr(augment, "_STRIP", strip)
        for _ in range(2):  # as computed, and as remembered
            assert all(torch.equal(move(pixels), expected) for move, expected in zip(moves, whole, strict=True))


def test_what_is_remembered_of_moves_is_little() -> None:
    augment._move.cache_clear()
    for side in range(300, 700, 40):
        augment._rotate(torch.zeros(side, side, 4, dtype=torch.uint8), 0.7)

    assert augment._move.cache_info().currsize == augment._REMEMBERED
    move = augment._move(700, 700, (1.0, 0.2, 0.0, 0.2, 1.0, 0.0), 0, augment._STRIP // 700)
    held = move.places.nbytes + sum(shares.nbytes for _, shares in move.neighbours)
    assert augment._REMEMBERED * held < 40e6
