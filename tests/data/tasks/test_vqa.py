from pathlib import Path

import pytest
import torch

from tests.data.tasks.test_vqa_source import official
from truepair.data.tasks.vqa import AnswerVocabulary, VqaCollator, VqaDataset
from truepair.data.tasks.vqa_source import open_vqa
from truepair.data.tokens import tokenize_captions, train_wordpiece
from truepair.data.transforms import TransformConfig, build_transform
from truepair.sampling.batches import Visit

TOKENIZER = train_wordpiece(["where is he looking down at table watching 2 3 4 what how many dogs"], min_frequency=1)


def collator() -> VqaCollator:
    return VqaCollator(lambda texts: tokenize_captions(TOKENIZER, texts, max_length=20, add_sep=False), TOKENIZER)


@pytest.fixture
def dataset(tmp_path: Path) -> VqaDataset:
    transform = build_transform(TransformConfig(size=16), train=True)
    return VqaDataset(open_vqa([official(tmp_path)]), transform, seed=3)


def test_answers_weigh_as_many_people_as_gave_them(dataset: VqaDataset) -> None:
    sample = dataset[2]
    assert sample.answers == ["2", "3", "4"]  # "two" is "2"
    assert sample.weights == pytest.approx([0.8, 0.1, 0.1])
    assert dataset[0].answers == ["down", "at table"] and dataset[0].weights == pytest.approx([0.9, 0.1])


def test_pixels_depend_on_epoch_and_image_alone(dataset: VqaDataset) -> None:
    first, second, third = dataset.__getitems__([Visit(1, 0), Visit(1, 1), Visit(1, 2)])
    assert torch.equal(first.pixels, second.pixels), "two questions about one image see the same crop"
    assert torch.equal(dataset[Visit(1, 2)].pixels, third.pixels)
    assert not torch.equal(dataset[Visit(2, 2)].pixels, third.pixels)


def test_a_batch_holds_each_image_once(dataset: VqaDataset) -> None:
    samples = dataset.__getitems__([2, 0, 1])
    batch = collator()(samples)
    assert len(batch) == 3 and batch.pixel_values.shape == (2, 3, 16, 16)
    assert batch.image_index.tolist() == [0, 1] and batch.image_rows.tolist() == [1, 0, 0]
    for row, sample in enumerate(samples):
        assert torch.equal(batch.pixel_values[batch.image_rows[row]], sample.pixels)
        alone, _ = tokenize_captions(TOKENIZER, [sample.question], max_length=20, add_sep=False)
        assert batch.input_ids[row, batch.attention_mask[row].bool()].tolist() == alone[0].tolist()
    assert batch.question_id.tolist() == [393225000, 262148000, 262148001]
    assert batch.answer_rows.tolist() == [0, 0, 0, 1, 1, 2]
    assert batch.answer_weights.tolist() == pytest.approx([0.8, 0.1, 0.1, 0.9, 0.1, 1.0])
    texts = [TOKENIZER.decode(row, skip_special_tokens=True) for row in batch.answer_ids]
    assert texts == ["2", "3", "4", "down", "at table", "watching"]
    for ids, mask in zip(batch.answer_ids, batch.answer_mask, strict=True):
        real = ids[mask.bool()].tolist()
        assert real[0] == TOKENIZER.cls_token_id and real[-1] == TOKENIZER.sep_token_id


def test_a_test_set_has_no_answers_and_a_cache_needs_no_pixels(tmp_path: Path) -> None:
    dataset = VqaDataset(open_vqa([official(tmp_path, annotations=None)]))
    batch = collator()(dataset.__getitems__([0, 2])).to("cpu")
    assert batch.pixel_values is None and batch.image_index.tolist() == [0, 1]
    assert (
        batch.answer_ids.shape == (0, 2) and batch.answer_rows.dtype == torch.int64 and len(batch.answer_weights) == 0
    )


def test_answer_tokens_end_with_the_end_token() -> None:
    tokens = collator().answer_tokens(["at table", "2"])
    assert [len(row) for row in tokens] == [3, 2] and all(row[-1] == TOKENIZER.sep_token_id for row in tokens)


IDS = torch.tensor([[2, 9, 3], [2, 7, 9], [2, 3, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0]])


def test_places_are_those_of_the_tokens() -> None:
    vocabulary = AnswerVocabulary.of_answers(IDS, MASK, padding=0)
    assert vocabulary.tokens == [0, 2, 3, 7, 9] and len(vocabulary) == 5
    assert torch.equal(torch.tensor(vocabulary.tokens)[vocabulary.places(IDS)], IDS)


def test_answers_with_other_tokens_are_not_known() -> None:
    vocabulary = AnswerVocabulary([0, 2, 3, 9])
    assert vocabulary.known(IDS, MASK).tolist() == [True, False, True]
    assert vocabulary.places(torch.tensor([7, 100, 9])).tolist() == [-1, -1, 3]
