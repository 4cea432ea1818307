"""Every family of transformers, opened from a folder, against the library's own way with the same folder."""

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer

from tests.models.dual.families import CAPTIONS, Family, library_features, pictures
from truepair.models.encoders.fingerprint import caption_input_key, encoder_fingerprint, image_input_key
from truepair.models.open import OpenedModel, open_model


def own_features(opened: OpenedModel) -> tuple[Tensor, Tensor, Tensor]:
    model, preprocessing = opened.model, opened.preprocessing
    transform = preprocessing.images()
    with torch.no_grad():
        images = model.encode_images(torch.stack([transform(image) for image in pictures()])).features
        texts = model.encode_texts(*preprocessing.collator().encode(CAPTIONS)).features
        logits = images @ texts.T / model.temperature + (0 if model.bias is None else model.bias)
    return images, texts, logits


def of_the_library(folder: Path, family: Family) -> tuple[Tensor, Tensor, Tensor]:
    model = AutoModel.from_pretrained(folder).eval()
    parts = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return library_features(model, *parts, family.texts)


def same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], atol: float = 1e-6) -> None:
    images, texts, logits = expected
    torch.testing.assert_close(found[0], images, rtol=0, atol=atol)
    torch.testing.assert_close(found[1], texts, rtol=0, atol=atol)
    # TIPSv2 has no token at all for an empty caption: the library divides 0 by 0, here that is like nothing.
    torch.testing.assert_close(found[2].nan_to_num(), logits.nan_to_num(), rtol=1e-4, atol=1e-4)


def test_features_and_logits_are_those_of_the_library(opened: OpenedModel, folder: Path, family: Family) -> None:
    expected = of_the_library(folder, family)
    assert expected[0].std(dim=0).max() > 1e-3 and expected[1].std(dim=0).max() > 1e-3  # they tell inputs apart
    assert (expected[1][0] - expected[1][2]).abs().max() > 1e-3
    same(own_features(opened), expected)
    assert expected[0].shape[1] == opened.model.embed_dim
    assert not opened.model.training


def test_the_longest_caption_is_the_models(opened: OpenedModel, family: Family) -> None:
    preprocessing = opened.preprocessing
    assert preprocessing.max_length == family.longest
    tokenizer = family.tokenizer()
    lengths = [len(tokenizer(caption)["input_ids"]) for caption in CAPTIONS]
    assert preprocessing.tokenization.lengths(CAPTIONS) == lengths
    ids, mask = preprocessing.collator().encode(CAPTIONS)
    assert ids.shape == mask.shape and ids.shape[1] <= family.longest


def test_what_is_saved_is_read_without_truepair(
    opened: OpenedModel, folder: Path, family: Family, tmp_path: Path
) -> None:
    opened.model.save_pretrained(tmp_path)
    opened.preprocessing.save(tmp_path)
    expected = of_the_library(folder, family)
    again, loading = type(opened.model.model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())
    processor = AutoProcessor.from_pretrained(tmp_path)
    same(library_features(again.eval(), processor.image_processor, processor.tokenizer, family.texts), expected)
    # A limit of its own, so that `truncation=True` alone cuts as training did.
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == family.longest
    if (tmp_path / "tokenizer.json").exists():  # says nothing of how the tokenizer was called last
        saved = json.loads((tmp_path / "tokenizer.json").read_text())
        assert saved["truncation"] is None and saved["padding"] is None
    reopened = open_model(tmp_path)
    same(own_features(reopened), expected)
    assert image_input_key(reopened.preprocessing) == image_input_key(opened.preprocessing)
    assert caption_input_key(reopened.preprocessing) == caption_input_key(opened.preprocessing)
    for tower in ("image_tower", "text_tower"):
        keys = {encoder_fingerprint(getattr(model.model, tower)) for model in (opened, reopened)}
        assert len(keys) == 1
