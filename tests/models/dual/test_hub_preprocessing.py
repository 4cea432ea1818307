"""Pixels and tokens of hub models: training's pixels are those of the processor, and captions are cut where it says."""

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    BaseImageProcessor,
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    CLIPModel,
    MobileViTImageProcessor,
    ViTImageProcessor,
)

from tests.data.makers import noise
from tests.models.dual.families import (
    CAPTIONS,
    FAMILIES,
    Family,
    clip_processor,
    clip_tokenizer,
    gemma_tokenizer,
    patch_processor,
    pictures,
)
from truepair.data.transforms import TransformConfig
from truepair.errors import ConfigError
from truepair.models import HubDualEncoder
from truepair.models.dual.hub_preprocessing import HubPreprocessing, image_side
from truepair.models.dual.patches import makes_patches, unpack_patches
from truepair.randomness import isolated_rng

PLAIN = {"crop_scale": (1.0, 1.0), "flip": 0.0, "rand_augment_ops": 0}


def preprocessing(processor: BaseImageProcessor, **transform: Any) -> HubPreprocessing:
    config = TransformConfig(size=image_side(processor), **transform)
    return HubPreprocessing(processor, clip_tokenizer(), 20, config)


PROCESSORS: dict[str, BaseImageProcessor] = {family.name: family.processor() for family in FAMILIES}
PROCESSORS |= {
    "no_normalisation": clip_processor(do_normalize=False),
    "no_rescaling": clip_processor(do_rescale=False),
    "rescaled_to_2": clip_processor(rescale_factor=1 / 127.5),
    "not_square": clip_processor(size={"height": 16, "width": 24}, do_center_crop=False),
    "crop_not_square": clip_processor(crop_size={"height": 12, "width": 16}),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_training_pixels_without_augmentation_are_the_processors(name: str) -> None:
    own = preprocessing(PROCESSORS[name], **PLAIN)
    plain, train = own.images(), own.images(train=True)
    shape = plain(noise(1)).shape
    if makes_patches(own.processor):
        images = pictures()
    else:
        assert {plain(image).shape for image in pictures()} == {shape}
        # Of just the model's size, so that neither side resizes (all processors but one crop nothing off these).
        images = [noise(seed, (shape[2], shape[1])) for seed in range(3)] if shape[1] == shape[2] else []
    for image in images:
        expected, found = plain(image), train(image)
        if name == "align":  # resizes to 70 x 72 before it crops 64 x 64
            expected, found = expected.mean(dim=(1, 2)), found.mean(dim=(1, 2))
            torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
        else:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    one_colour = Image.new("RGB", (50, 40), (200, 100, 10))
    torch.testing.assert_close(train(one_colour), plain(one_colour), rtol=1e-5, atol=1e-5)
    assert train(noise(1)).dtype == plain(noise(1)).dtype == torch.float32


@pytest.mark.parametrize("resample", list(range(4)))
def test_training_resizes_as_the_processor_does(resample: int) -> None:
    own = preprocessing(ViTImageProcessor(size={"height": 16, "width": 16}, resample=resample), **PLAIN)
    image = noise(3, (200, 90))
    expected, found = own.images()(image), own.images(train=True)(image)
    # Resizing 8-bit pixels or tensors rounds apart; another interpolation would be 10 times as far off.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)


def test_an_unknown_resampling_is_refused() -> None:
    own = preprocessing(CLIPImageProcessorPil(size={"shortest_edge": 16}, resample=Image.Resampling.HAMMING))
    with pytest.raises(ConfigError, match=r"resamples by <Resampling.HAMMING: 5>; set its resample to 2 \(bilinear\)"):
        own.images(train=True)


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip_2", "not_square"])
def test_augmented_images_have_the_models_shape_and_depend_on_the_seed_alone(name: str) -> None:
    own = preprocessing(PROCESSORS[name])
    plain, train = own.images(), pickle.loads(pickle.dumps(own.images(train=True)))  # noqa: S301
    for image in (picture for picture in pictures() if min(picture.size) > 2):
        with isolated_rng(1):
            one, other = train(image), train(image)
        with isolated_rng(1):
            again = train(image)
        assert one.shape == plain(image).shape and torch.equal(one, again)
        assert (image.getextrema() == ((128, 128),) * 3) == torch.equal(one, other)  # nothing changes the grey one
    smallest = image_side(own.processor) / (0.2 * 3 / 4) ** 0.5
    assert smallest <= train.min_side < smallest + 1


def test_patches_are_packed_and_unpacked() -> None:
    own = preprocessing(patch_processor())
    made = own.processor(images=pictures(), return_tensors="pt")
    packed = torch.stack([own.images()(image) for image in pictures()])
    assert packed.shape == (len(pictures()), 1 + 12, 4 * 4 * 3) and packed.dtype == torch.float32
    for name, value in unpack_patches(packed)._asdict().items():
        assert torch.equal(value, made[name]), name
    assert len(made["spatial_shapes"].unique(dim=0)) > 2


def test_a_crop_of_an_image_in_patches_keeps_about_its_shape() -> None:
    own = preprocessing(patch_processor(max_num_patches=64), flip=0.0, rand_augment_ops=0)
    train = own.images(train=True)
    with isolated_rng(0):
        shapes = torch.stack([train(noise(1, (300, 100)))[0, :2] for _ in range(50)])  # [50, 2]
    aspects = shapes[:, 1] / shapes[:, 0]
    assert len(aspects.unique()) > 3 and 2 < float(aspects.median()) < 4.5
    # Whole rows and columns: never distorted, so never outside 4/3 of the shape by more than a patch.
    assert float(aspects.min()) > 1.5 and float(aspects.max()) < 6


def test_images_of_several_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"CLIPImageProcessor, makes images of several sizes \[\(16, 24\), "):
        image_side(clip_processor(do_center_crop=False))


def test_a_processor_that_mixes_colours_is_not_augmented() -> None:
    own = preprocessing(MobileViTImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}))
    assert own.images()(noise(1)).shape == (3, 16, 16)
    with pytest.raises(ConfigError, match="MobileViTImageProcessor, does more to colours than scale them"):
        own.images(train=True)


def test_a_recipe_may_augment_otherwise_and_cut_shorter() -> None:
    own = preprocessing(clip_processor())
    recipe = TransformConfig(size=0, normalisation="encoder", flip=0.0)
    other = own.adapted(recipe, 7)
    assert (other.max_length, other.transform.flip, other.transform.size) == (7, 0.0, 16)
    assert other.collator().encode(CAPTIONS)[0].shape[1] == 7
    assert own.adapted(recipe, 0).max_length == 20
    with pytest.raises(ConfigError, match=r"data\.transform\.size is 32, but the model reads 16 px; set it to 0"):
        own.adapted(replace(recipe, size=32), 0)
    with pytest.raises(ConfigError, match=r"text\.max_length is 30, but the model reads at most 20 tokens"):
        own.adapted(recipe, 30)
    full = HubPreprocessing(patch_processor(), gemma_tokenizer(), 20, own.transform, full_length=True)
    with pytest.raises(ConfigError, match=r"max_length is 7, but all captions of this model are padded to 20 tokens"):
        full.adapted(recipe, 7)


@pytest.mark.parametrize("family", [one for one in FAMILIES if "clip" in one.name], ids=lambda family: family.name)
@pytest.mark.parametrize("pad", [None, "a"])
def test_the_padding_token_does_not_matter_where_a_mask_hides_it(family: Family, pad: str | None) -> None:
    """CLIP pads with its end token, other tools with 0, and some tokenizers name none."""
    dual = HubDualEncoder(family.model())
    config = TransformConfig(size=16)
    usual = HubPreprocessing(family.processor(), family.tokenizer(), 20, config).collator().encode(CAPTIONS)
    tokenizer = family.tokenizer()
    tokenizer.pad_token = pad
    other = HubPreprocessing(family.processor(), tokenizer, 20, config).collator().encode(CAPTIONS)
    assert torch.equal(usual[1], other[1])
    if isinstance(dual.model, CLIPModel):
        assert not torch.equal(usual[0], other[0])
    with torch.no_grad():
        expected, found = dual.encode_texts(*usual).features, dual.encode_texts(*other).features
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_full_length_needs_a_padding_token() -> None:
    tokenizer = gemma_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ConfigError, match="are padded to full length, but its tokenizer has no pad_token"):
        HubPreprocessing(CLIPImageProcessor(), tokenizer, 20, TransformConfig(size=16), full_length=True)


def test_what_caches_depend_on() -> None:
    own = preprocessing(clip_processor())
    plain = own.image_settings()
    assert plain == replace(own, transform=replace(own.transform, flip=0.1)).image_settings()
    augmented = own.image_settings(train=True)
    assert augmented != replace(own, transform=replace(own.transform, flip=0.1)).image_settings(train=True)
    assert plain != preprocessing(clip_processor(resample=2)).image_settings()
    assert own.caption_settings() != replace(own, max_length=9).caption_settings()
