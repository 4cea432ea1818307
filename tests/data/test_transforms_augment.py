from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.data.makers import noise
from truepair.data import transforms as augment
from truepair.data.transforms import AlbefRandAugment
from truepair.errors import ConfigError
from truepair.randomness import isolated_rng


def test_it_draws_each_of_ten_operations_half_the_time_and_either_sign(monkeypatch):
    drawn = Counter()

    def counting(number):
        def operation(image, strength):
            drawn[number, strength] += 1
            return image

        return operation

    monkeypatch.setattr(augment, "_OPERATIONS", tuple(counting(number) for number in range(10)))
    rand_augment = AlbefRandAugment(ops=2, level=7)
    with isolated_rng("draws"):
        for _ in range(2000):
            rand_augment(noise(0, (2, 2)))

    assert {number for number, _ in drawn} == set(range(10))
    assert {strength for _, strength in drawn} == {0.7, -0.7}
    assert 1900 < drawn.total() < 2100
    assert min(drawn.values()) > 60


def test_no_operations_change_nothing():
    image = noise(1)

    assert AlbefRandAugment(ops=0)(image) is image


def test_every_operation_keeps_size_and_mode():
    image = noise(2, (20, 14))

    for operation in augment._OPERATIONS:
        for strength in (-0.7, 0.0, 1.0):
            result = operation(image, strength)
            assert (result.size, result.mode) == (image.size, "RGB")


def test_only_the_identity_leaves_a_picture_as_it_is():
    image = Image.fromarray((np.array(noise(3)) // 2 + 40).astype(np.uint8))

    same = [operation.__name__ for operation in augment._OPERATIONS if operation(image, 0.7) == image]

    assert same == ["_identity"]


def test_translation_moves_by_a_tenth_of_its_level_in_pixels_and_fills_with_grey():
    image = noise(4, (30, 20))

    moved = np.array(augment._translate_x(image, 0.7))

    assert (moved[:, :23] == np.array(image)[:, 7:]).all()
    assert (moved[:, 24:] == 128).all()


def test_brightness_is_enhanced_by_its_factor():
    assert augment._brightness(noise(5), -0.7) == ImageEnhance.Brightness(noise(5)).enhance(1.36)


@pytest.mark.parametrize(("ops", "level"), [(-1, 5), (2, 11), (2, -1)])
def test_impossible_strengths_are_errors(ops, level):
    with pytest.raises(ConfigError, match="rand_augment"):
        AlbefRandAugment(ops, level)
