import pickle

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
    SubstitutionLog,
    TransformConfig,
    Visit,
    build_transform,
    open_pairs,
    train_wordpiece,
)
from truepair.errors import ConfigError, DataError
from truepair.relations.text import caption_key

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


def test_without_a_transform_no_image_is_opened(table, tmp_path):
    (tmp_path / "images" / "0.png").unlink()

    assert "pixel_values" not in PairDataset(table)[0]


class TestDeterminism:
    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_the_number_of_workers_does_not_matter(self, table, workers):
        dataset = PairDataset(table, SMALL, seed=5)
        visits = [Visit(epoch, index) for epoch in (0, 3) for index in (4, 1, 7, 0, 2, 6, 3, 5)]
        torch.manual_seed(workers)
        collate = PairCollator(train_wordpiece(["picture number"], 40), 12)

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
        collate = PairCollator(train_wordpiece(["picture number"], 40), 12)
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

    @settings(max_examples=25, deadline=None)
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

    assert len({dataset[n]["image_id"] for n in range(6)}) == 6
    assert dataset[4]["caption"] in ("picture 1", "number 1")
