import pytest
import torch

from tests.data.makers import photos
from truepair.data import (
    PairCollator,
    PairDataset,
    TransformConfig,
    build_transform,
    open_pairs,
    tokenize_captions,
    train_wordpiece,
)
from truepair.data import pairs as collate
from truepair.data.tokens import caption_tokens
from truepair.relations.text import normalise_caption


@pytest.fixture
def dataset(tmp_path):
    return PairDataset(open_pairs(photos(tmp_path, 4)), build_transform(TransformConfig(size=16), train=True))


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(["picture number 0 1 2 3 ."] * 3, 40)


def test_a_batch_holds_its_samples(dataset, tokenizer):
    samples = [dataset[2], dataset[0], dataset[3]]

    batch = PairCollator(tokenizer, 20)(samples)

    assert len(batch) == 3
    assert torch.equal(batch.pixel_values, torch.stack([sample["pixel_values"] for sample in samples]))
    assert batch.index.tolist() == batch.source_index.tolist() == [2, 0, 3]
    for name in ("image_id", "caption_id", "caption_key"):
        assert getattr(batch, name).tolist() == [sample[name] for sample in samples]
        assert getattr(batch, name).dtype == torch.int64
    assert batch.captions == [sample["caption"] for sample in samples]
    assert tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True) == batch.captions
    assert batch.reasons == [""] * 3


def test_without_images_there_are_no_pixel_values(dataset, tokenizer):
    texts = PairDataset(dataset.table)

    batch = PairCollator(tokenizer, 20)([texts[0], texts[1]])

    assert batch.pixel_values is None
    assert batch.to("cpu").pixel_values is None


def test_it_moves_to_a_device(dataset, tokenizer):
    batch = PairCollator(tokenizer, 20)([dataset[0]])

    moved = batch.to("meta")

    assert {moved.pixel_values.device.type, moved.input_ids.device.type, moved.image_id.device.type} == {"meta"}
    assert moved.captions == batch.captions


def test_captions_may_be_normalised_before_tokenizing(dataset, tokenizer):
    sample = {**dataset[0], "caption": "Picture, (number) 1."}

    batch = PairCollator(tokenizer, 20, normalise=True, add_sep=False)([sample])

    assert tokenizer.decode(batch.input_ids[0]) == "[CLS] picture number 1"
    assert batch.captions == ["Picture, (number) 1."]


def test_a_caption_is_tokenized_once_while_it_is_remembered(tokenizer, monkeypatch):
    monkeypatch.setattr(collate, "_REMEMBERED", 3)
    asked = []

    def counted(tokenizer, texts, **options):
        asked.append(list(texts))
        return caption_tokens(tokenizer, texts, **options)

    monkeypatch.setattr(collate, "caption_tokens", counted)
    collator = PairCollator(tokenizer, 20, normalise=True)
    for captions in (["A dog!", "a cat"], ["a cat", "two dogs", "a cat"], ["A dog!"], ["owls", "a cat"], ["a cat"]):
        ids, mask = collator.encode(captions)
        plain = [normalise_caption(caption) for caption in captions]
        assert [part.tolist() for part in (ids, mask)] == [
            part.tolist() for part in tokenize_captions(tokenizer, plain, max_length=20)
        ]
    assert asked == [["a dog", "a cat"], ["two dogs"], ["owls"], ["a cat"]]
