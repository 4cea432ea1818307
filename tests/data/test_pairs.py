import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.data.makers import noise, photos, put, put_jsonl
from truepair.data import (
    PairCollator,
    PairDataset,
    PairTable,
    Substitution,
    SubstitutionLog,
    TransformConfig,
    build_transform,
    open_pairs,
    tokenize_captions,
    train_wordpiece,
)
from truepair.data import pairs as collate
from truepair.data.loading import read_batches
from truepair.data.tokens import OwnTokenization
from truepair.errors import ConfigError, DataError
from truepair.relations.text import caption_key, normalise_caption
from truepair.sampling.batches import Visit

SMALL = build_transform(TransformConfig(size=16), train=True)


@pytest.fixture
def table(tmp_path):
    return open_pairs(photos(tmp_path, 8))


def table_named(table, name):
    return PairTable(table.rows, name)


def equal(left, right):
    return left.keys() == right.keys() and all(
        torch.equal(left[k], right[k]) if isinstance(left[k], torch.Tensor) else left[k] == right[k] for k in left
    )


def test_a_sample_is_an_image_with_one_of_its_captions(table):
    sample = PairDataset(table, SMALL)[3]

    row = table.rows[3]
    drawn = row["captions"].index(sample["caption"])
    assert (sample["index"], sample["source_index"], sample["substituted"], sample["reason"]) == (3, 3, False, "")
    assert (sample["image_id"], sample["caption_id"]) == (row["image_id"], row["caption_ids"][drawn])
    assert sample["caption_key"] == caption_key(sample["caption"])
    assert sample["pixel_values"].shape == (3, 16, 16)


def test_the_pixels_of_a_batch_are_written_into_one_tensor(table):
    dataset = PairDataset(table, SMALL)
    pixels = [sample["pixel_values"] for sample in dataset.__getitems__([3, 0, Visit(2, 5)])]

    whole = collate.stacked(pixels)

    assert whole.shape == (3, 3, 16, 16) and whole.is_contiguous() and whole.data_ptr() == pixels[0].data_ptr()
    assert torch.equal(whole, torch.stack(pixels))
    assert all(torch.equal(whole[n], dataset[visit]["pixel_values"]) for n, visit in enumerate([3, 0, Visit(2, 5)]))


def test_other_tensors_are_stacked():
    rows = list(torch.arange(12.0).view(4, 3))
    for tensors in (rows[::-1], rows[:3], rows[1:], [*rows[:3], rows[2]], [rows[0].clone(), *rows[1:]], [rows[3]]):
        whole = collate.stacked(tensors)
        assert torch.equal(whole, torch.stack(tensors)) and whole.data_ptr() != rows[0].data_ptr()
    apart = [row[:2] for row in torch.arange(9.0).view(3, 3)]
    assert torch.equal(collate.stacked(apart), torch.stack(apart))


def whole_in_shared_memory(samples):
    pixels = [sample["pixel_values"] for sample in samples]
    whole = collate.stacked(pixels)
    return whole, whole.is_shared() and whole.data_ptr() == pixels[0].data_ptr()


@pytest.mark.parametrize("size", [64, 96])
def test_a_loading_process_writes_pixels_where_it_hands_them_over(table, size):
    dataset = PairDataset(table, build_transform(TransformConfig(size=size), train=True))
    found = list(read_batches(dataset, whole_in_shared_memory, workers=1, timeout=300, batch_size=4))

    assert [shared for _, shared in found] == [True, True]
    expected = [dataset[row]["pixel_values"] for row in range(8)]
    assert torch.equal(torch.cat([whole for whole, _ in found]), torch.stack(expected))


def test_a_loading_process_without_room_for_pixels_says_so_in_a_line(table, monkeypatch):
    def full(size):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    dataset = PairDataset(table, build_transform(TransformConfig(size=96), train=True))
    with pytest.raises(DataError, match=r"a loading process cannot hand over its batch: shared memory .*--shm-size 8g"):
        list(read_batches(dataset, list, workers=1, timeout=300, batch_size=4))


def test_without_a_transform_no_image_is_opened(table, tmp_path):
    (tmp_path / "images" / "0.png").unlink()

    assert "pixel_values" not in PairDataset(table)[0]


class TestDeterminism:
    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_the_number_of_workers_does_not_matter(self, table, workers):
        dataset = PairDataset(table, SMALL, seed=5)
        visits = [Visit(epoch, index) for epoch in (0, 3) for index in (4, 1, 7, 0, 2, 6, 3, 5)]
        torch.manual_seed(workers)
        collate = PairCollator(OwnTokenization(train_wordpiece(["picture number"], 40), 12))

        batches = list(DataLoader(dataset, 3, sampler=visits, num_workers=workers, collate_fn=collate))

        pixels = torch.cat([batch.pixel_values for batch in batches])
        assert torch.equal(pixels, torch.stack([dataset[visit]["pixel_values"] for visit in visits]))
        assert [c for batch in batches for c in batch.captions] == [dataset[visit]["caption"] for visit in visits]

    def test_a_copy_sent_to_another_process_draws_alike(self, table):
        dataset = PairDataset(PairTable.concat([table.select([3, 2, 1]), table_named(table, "other")]), SMALL, seed=5)

        copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301

        assert equal(copy[Visit(1, 2)], dataset[Visit(1, 2)])

    def test_the_callers_random_state_does_not_matter_and_stays(self, table):
        dataset = PairDataset(table, SMALL)
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = dataset[Visit(2, 1)]

        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(99)
        assert equal(first, dataset[Visit(2, 1)])

    def test_seed_epoch_and_sample_do_matter(self, table):
        views = [
            PairDataset(table, SMALL, seed=seed)[Visit(epoch, index)]["pixel_values"]
            for seed, epoch, index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
        ]

        assert all(not torch.equal(views[i], views[j]) for i in range(4) for j in range(i))

    def test_a_plain_number_is_a_visit_of_epoch_0(self, table):
        dataset = PairDataset(table, SMALL)

        assert equal(dataset[1], dataset[Visit(0, 1)])
        assert equal(dataset[np.int64(1)], dataset[1])
        assert equal(dataset[-1], dataset[7])

    def test_where_a_row_stands_does_not_matter(self, table):
        whole, part = PairDataset(table, SMALL), PairDataset(table.select([6, 2]), SMALL)

        first, second = whole[Visit(4, 2)], part[Visit(4, 1)]

        assert torch.equal(first["pixel_values"], second["pixel_values"])
        assert first["caption_id"] == second["caption_id"]

    def test_rows_of_one_image_are_augmented_apart(self, table):
        pairs = PairDataset(table.as_pairs(), SMALL)

        assert pairs[0]["image_id"] == pairs[1]["image_id"]
        assert not torch.equal(pairs[0]["pixel_values"], pairs[1]["pixel_values"])

    def test_evaluation_is_the_same_in_every_epoch(self, table):
        dataset = PairDataset(table, build_transform(TransformConfig(size=16), train=False), captions="first")

        assert equal(dataset[Visit(0, 3)], dataset[Visit(9, 3)])


class TestCaptions:
    def test_each_is_drawn_about_equally_often(self, table):
        dataset = PairDataset(table)

        drawn = [dataset[Visit(epoch, index)]["caption"] for epoch in range(60) for index in range(8)]

        assert 190 < sum(caption.startswith("picture") for caption in drawn) < 290

    def test_the_first_can_be_asked_for(self, table):
        dataset = PairDataset(table, captions="first")

        assert [dataset[Visit(5, index)]["caption"] for index in range(8)] == [f"picture {n}" for n in range(8)]

    def test_all_of_them_are_rows_of_as_pairs(self, table):
        dataset = PairDataset(table.as_pairs())

        assert [dataset[n]["caption"] for n in range(4)] == ["picture 0", "number 0", "picture 1", "number 1"]


class TestSubstitutes:
    @pytest.fixture
    def damaged(self, table, tmp_path):
        for number in (1, 2, 7):
            put(tmp_path / "images" / f"{number}.png", b"torn")
        return table

    def test_the_next_readable_row_stands_in(self, damaged):
        dataset = PairDataset(damaged, SMALL)

        for index, stand_in in ((1, 3), (2, 3), (7, 0)):
            sample, own = dataset[Visit(2, index)], dataset[Visit(2, stand_in)]
            assert (sample["index"], sample["source_index"], sample["substituted"]) == (index, stand_in, True)
            assert f"{index}.png is not an image" in sample["reason"]
            assert torch.equal(sample["pixel_values"], own["pixel_values"])
            assert (sample["image_id"], sample["caption_id"]) == (own["image_id"], own["caption_id"])

    def test_all_other_samples_stay_as_they_were(self, table, tmp_path):
        before = [PairDataset(table, SMALL)[index] for index in range(8)]
        put(tmp_path / "images" / "4.png", b"torn")

        after = [PairDataset(table, SMALL)[index] for index in range(8)]

        assert [equal(*pair) for pair in zip(before, after, strict=True)] == [n != 4 for n in range(8)]
        assert [sample["index"] for sample in after] == list(range(8))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_batches_carry_them_to_the_main_process(self, damaged, workers):
        collate = PairCollator(OwnTokenization(train_wordpiece(["picture number"], 40), 12))
        log = SubstitutionLog(max_fraction=0.5)

        for batch in DataLoader(PairDataset(damaged, SMALL), 4, num_workers=workers, collate_fn=collate):
            log.update(batch)

        assert [(entry.index, entry.source_index) for entry in log.entries] == [(1, 3), (2, 3), (7, 0)]
        assert (log.visits, log.count) == (8, 3)

    def test_a_run_of_unreadable_rows_is_bounded(self, table, tmp_path):
        for number in range(5):
            (tmp_path / "images" / f"{number}.png").unlink()

        with pytest.raises(DataError, match=r"row 0 of pairs and the 3 after it cannot be read: .*0\.png is missing"):
            PairDataset(table, SMALL, substitutes=3)[0]
        assert PairDataset(table, SMALL, substitutes=5)[0]["source_index"] == 5

    def test_nothing_readable_at_all(self, table, tmp_path):
        for number in range(8):
            (tmp_path / "images" / f"{number}.png").unlink()

        with pytest.raises(DataError, match="and the 7 after it cannot be read"):
            PairDataset(table, SMALL)[0]

    @settings(max_examples=25)
    @given(torn=st.sets(st.integers(0, 5), max_size=5))
    def test_against_an_obvious_search(self, torn, tmp_path_factory):
        folder = tmp_path_factory.mktemp("rows")
        put(folder / "good.png", noise(0))
        put(folder / "torn.png", b"torn")
        rows = ({"image": "torn.png" if n in torn else "good.png", "caption": str(n)} for n in range(6))
        dataset = PairDataset(open_pairs(put_jsonl(folder / "x.jsonl", rows)), SMALL)

        for index in range(6):
            expected = next(n % 6 for n in range(index, index + 6) if n % 6 not in torn)
            assert dataset[index]["source_index"] == expected


def test_impossible_requests_are_errors(table):
    with pytest.raises(ConfigError, match="captions is 'all'"):
        PairDataset(table, captions="all")
    with pytest.raises(DataError, match="holds no pairs"):
        PairDataset(table.select([]))
    with pytest.raises(IndexError, match="row 8 of 8"):
        PairDataset(table)[8]


def test_several_sources_are_one_dataset(tmp_path):
    tables = [open_pairs(photos(tmp_path / name, 3), name=name) for name in ("one", "two")]

    dataset = PairDataset(PairTable.concat(tables), SMALL)

    assert len(set(dataset.table.image_ids.tolist())) == 6
    ids = [dataset[n]["image_id"] for n in range(6)]
    assert ids[:3] == ids[3:], "both hold the same three pictures"
    assert len(set(ids)) == 3
    assert dataset[4]["caption"] in ("picture 1", "number 1")


@pytest.fixture
def dataset(tmp_path):
    return PairDataset(open_pairs(photos(tmp_path, 4)), build_transform(TransformConfig(size=16), train=True))


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(["picture number 0 1 2 3 ."] * 3, 40)


def test_a_batch_holds_its_samples(dataset, tokenizer):
    samples = [dataset[2], dataset[0], dataset[3]]

    batch = PairCollator(OwnTokenization(tokenizer, 20))(samples)

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

    batch = PairCollator(OwnTokenization(tokenizer, 20))([texts[0], texts[1]])

    assert batch.pixel_values is None
    assert batch.to("cpu").pixel_values is None


def test_it_moves_to_a_device_and_its_ids_stay(dataset, tokenizer):
    batch = PairCollator(OwnTokenization(tokenizer, 20))([dataset[0]])

    moved = batch.to("meta")

    assert moved.device.type == "meta"
    assert {moved.pixel_values.device.type, moved.input_ids.device.type, moved.attention_mask.device.type} == {"meta"}
    for name in ("index", "source_index", "image_id", "caption_id", "caption_key"):
        assert torch.equal(getattr(moved, name), getattr(batch, name))
    assert moved.captions == batch.captions


def test_captions_may_be_normalised_before_tokenizing(dataset, tokenizer):
    sample = {**dataset[0], "caption": "Picture, (number) 1."}

    batch = PairCollator(OwnTokenization(tokenizer, 20, add_sep=False, normalise=True))([sample])

    assert tokenizer.decode(batch.input_ids[0]) == "[CLS] picture number 1"
    assert batch.captions == ["Picture, (number) 1."]


def test_a_caption_is_tokenized_once_while_it_is_remembered(tokenizer, monkeypatch):
    monkeypatch.setattr(collate, "_REMEMBERED", 3)
    asked = []

    class Counted(OwnTokenization):
        def __call__(self, captions):
            asked.append(list(captions))
            return super().__call__(captions)

    collator = PairCollator(Counted(tokenizer, 20, normalise=True))
    for captions in (["A dog!", "a cat"], ["a cat", "two dogs", "a cat"], ["A dog!"], ["owls", "a cat"], ["a cat"]):
        ids, mask = collator.encode(captions)
        plain = [normalise_caption(caption) for caption in captions]
        assert [part.tolist() for part in (ids, mask)] == [
            part.tolist() for part in tokenize_captions(tokenizer, plain, max_length=20)
        ]
    assert asked == [["A dog!", "a cat"], ["two dogs"], ["owls"], ["a cat"]]


def batch(*reasons, start=0):
    index = torch.arange(start, start + len(reasons))
    moved = index + torch.tensor([bool(reason) for reason in reasons]).long()
    return SimpleNamespace(index=index, source_index=moved, reasons=list(reasons))


def test_substituted_rows_are_counted_and_listed_once():
    log = SubstitutionLog(max_fraction=1.0)
    log.update(batch("", "torn", "", "empty"))
    log.update(batch("", "torn"))

    assert (log.visits, log.count) == (6, 3)
    assert log.entries == [Substitution(1, 2, "torn"), Substitution(3, 4, "empty")]


def test_a_run_with_too_many_stops():
    log = SubstitutionLog(max_fraction=0.1, min_visits=20)
    log.update(batch(*["torn"] * 3, *[""] * 16))

    with pytest.raises(DataError, match=r"3 of 20 samples could not be read, over the limit of 10\.0%.*the last: torn"):
        log.update(batch(""))


def test_exactly_the_limit_is_allowed():
    log = SubstitutionLog(max_fraction=0.1, min_visits=20)

    log.update(batch("torn", "torn", *[""] * 18))

    assert log.count == 2


def test_its_state_survives_a_checkpoint():
    log, resumed = SubstitutionLog(max_fraction=0.5), SubstitutionLog(max_fraction=0.5)
    log.update(batch("torn", "", ""))

    resumed.load_state(json.loads(json.dumps(log.state())))

    assert (resumed.visits, resumed.count, resumed.entries) == (log.visits, log.count, log.entries)
