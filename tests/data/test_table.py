import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.makers import encoded, photos, picture, put, put_jsonl
from truepair.data import PairTable, open_pairs
from truepair.errors import DataError
from truepair.relations.text import caption_key


def table_of(captions, name="made", splits=None, **columns):
    """A table in memory: one row for each list of captions."""
    ids = iter(range(1000))
    count = len(captions)
    content = {
        "image": [
            {"bytes": encoded(picture()), "path": f"{n}.png", "offset": None, "size": None} for n in range(count)
        ],
        "image_id": list(range(count)),
        "captions": captions,
        "caption_ids": [[next(ids) for _ in row] for row in captions],
        "split": splits or ["train"] * count,
        **columns,
    }
    return PairTable(datasets.Dataset.from_dict(content), name)


@pytest.fixture
def table():
    return table_of([["a"], ["b", "c"], ["d"], ["e", "f"]], splits=["train", "test", "test", "train"])


def test_splits(table):
    assert table.splits == {"test": 2, "train": 2}
    assert table.split("test").rows["captions"][:] == [["b", "c"], ["d"]]
    assert table.split("test+train").image_ids.tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match="made has no split 'val'; it has test, train"):
        table.split("val")


def test_select_of_select(table):
    chosen = table.select([3, 1, 0]).select(np.array([2, 0]))

    assert len(chosen) == 2
    assert chosen.rows["captions"][:] == [["a"], ["e", "f"]]
    assert chosen.image_ids.tolist() == [0, 3]
    assert chosen.split("train").image_ids.tolist() == [0, 3]


@pytest.mark.parametrize("indices", [[4], [-1], [0, 9]])
def test_rows_out_of_range_are_errors(table, indices):
    with pytest.raises(DataError, match="of made are asked for; it has 4"):
        table.select(indices)


def test_all_captions_as_pairs(table):
    pairs = table.select([3, 2, 1]).as_pairs()

    assert pairs.rows["captions"][:] == [["e"], ["f"], ["d"], ["b"], ["c"]]
    assert pairs.rows["caption_ids"][:] == [[4], [5], [3], [1], [2]]
    assert pairs.image_ids.tolist() == [3, 3, 2, 1, 1]
    assert pairs.as_pairs() is pairs
    assert pairs.image(0).size == (12, 8)


@settings(max_examples=30)
@given(data=st.data())
def test_choosing_and_unfolding_against_plain_lists(data):
    captions = data.draw(st.lists(st.lists(st.text(max_size=3), min_size=1, max_size=3), min_size=1, max_size=6))
    indices = data.draw(st.lists(st.integers(0, len(captions) - 1), min_size=1, max_size=8))
    table = table_of([[str(text.encode("utf-8", "replace")) for text in row] for row in captions])

    expected = [(i, text) for i in indices for text in table.rows[i]["captions"]]

    pairs = table.select(indices).as_pairs().rows
    assert list(zip(pairs["image_id"], (row[0] for row in pairs["captions"]), strict=True)) == expected


class TestPictures:
    """Rows of one picture, and tables that have one row a picture."""

    def test_rows_are_put_together(self):
        table = table_of(
            [["a"], ["b", "c"], ["d"], ["a"], ["e"]],
            group=["g", "g", "g", "h", None],
            family=["f", None, "f", "f", None],
            names=[["a", "x"], ["b", "c"], None, ["a", "y"], None],
        )
        table = table.select([4, 0, 1, 3, 2])
        rows = table.rows.to_dict()
        rows["image_id"] = [9, 7, 8, 7, 8]
        pictures = PairTable(datasets.Dataset.from_dict(rows), "made").as_pictures()

        assert pictures.image_ids.tolist() == [9, 7, 8]
        assert pictures.values("captions") == [["e"], ["a", "a"], ["b", "c", "d"]]
        assert pictures.values("caption_ids") == [[5], [0, 4], [1, 2, 3]]
        assert pictures.values("group") == [None, None, "g"]
        assert pictures.values("family") == [None, "f", None]
        assert pictures.values("names") == [None, ["a", "x", "y"], ["b", "c"]]
        assert pictures.rows["image"][1] == table.rows["image"][1]
        assert pictures.as_pictures() is pictures

    @pytest.mark.parametrize("ids", [[1, 2, 3, 4, 5], [1, 1, 3, 3, 5]])
    def test_one_file_is_one_picture_whatever_its_ids(self, tmp_path, ids):
        for name, colour in (("a", "red"), ("b", "blue")):
            put(tmp_path / f"{name}.png", picture(colour))
        names = ["a.png", "./a.png", "b.png", "b.png", "a.png"]
        entries = [{"image": name, "caption": f"c{n}"} for n, name in enumerate(names)]
        if ids[0] != ids[1]:
            entries = [entry | {"image_id": number} for entry, number in zip(entries, ids, strict=True)]

        table = open_pairs(put_jsonl(tmp_path / "pairs.jsonl", entries))

        assert table.pictures.tolist() == [0, 0, 1, 1, 0]
        assert table.select([4, 2]).pictures.tolist() == [0, 1]
        assert table.select([2, 4, 3]).as_pictures().values("captions") == [["c2", "c3"], ["c4"]]

    @settings(max_examples=30)
    @given(data=st.data())
    def test_it_undoes_the_unfolding_into_pairs(self, data):
        captions = data.draw(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3), min_size=1, max_size=6))
        table = table_of(captions)
        order = data.draw(st.permutations(range(sum(map(len, captions)))))

        again = table.as_pairs().as_pictures()
        shuffled = table.as_pairs().select(order).as_pictures()

        assert again.rows[:] == table.rows[:]
        by_id = dict(zip(shuffled.image_ids.tolist(), shuffled.values("captions"), strict=True))
        assert {number: sorted(own) for number, own in by_id.items()} == dict(enumerate(map(sorted, captions)))


def test_a_table_must_have_its_columns():
    with pytest.raises(DataError, match="tiny lacks the columns caption_ids, captions, image, split"):
        PairTable(datasets.Dataset.from_dict({"image_id": [1]}), "tiny")


class TestConcat:
    def test_rows_follow_each_other_with_ids_made_distinct(self, table):
        other = table_of([["x", "y"], ["z"]], "other", splits=["val", "train"])

        both = PairTable.concat([table, other])

        assert both.name == "made+other"
        assert both.rows["captions"][:] == [["a"], ["b", "c"], ["d"], ["e", "f"], ["x", "y"], ["z"]]
        assert both.splits == {"test": 2, "train": 3, "val": 1}
        assert len(set(both.image_ids.tolist())) == 6
        caption_ids = [number for row in both.rows["caption_ids"] for number in row]
        assert len(set(caption_ids)) == 9
        assert all(0 <= number < 2**63 for number in [*caption_ids, *both.image_ids.tolist()])

    def test_ids_depend_on_the_source_and_not_on_the_company(self, table):
        other, third = table_of([["x"]], "other"), table_of([["y"]], "third")

        first = PairTable.concat([table, other])
        second = PairTable.concat([third, other.select([0]), table.split("test")])

        assert first.image_ids[4] == second.image_ids[1]
        assert first.image_ids[1:3].tolist() == second.image_ids[2:].tolist()
        assert first.rows[1]["caption_ids"] == second.rows[2]["caption_ids"]

    def test_chosen_rows_stay_chosen(self, table):
        other = table_of([["x"], ["y"], ["z"]], "other")

        both = PairTable.concat([table.split("test"), other.select([2, 0])])

        assert both.rows["captions"][:] == [["b", "c"], ["d"], ["z"], ["x"]]
        assert both.select([3, 0]).rows["captions"][:] == [["x"], ["b", "c"]]
        assert len(both.as_pairs()) == 5

    def test_equal_images_of_one_source_stay_equal(self):
        repeated = table_of([["a"], ["b"]]).select([0, 0, 1])

        ids = PairTable.concat([repeated, table_of([["x"]], "other")]).image_ids

        assert ids[0] == ids[1] != ids[2]

    def test_columns_that_one_table_lacks_are_null(self, table):
        other = table_of([["x"]], "other", group=["g"], names=[["x", "y"]])

        both = PairTable.concat([table, other])

        assert both.rows["group"][:] == [None] * 4 + ["g"]
        assert both.rows["names"][4] == ["x", "y"]

    def test_memory_mapped_tables(self, tmp_path):
        tables = [open_pairs(photos(tmp_path / name, 3), name=name) for name in ("one", "two")]
        put_jsonl(tmp_path / "extra.jsonl", [{"image": "one/images/0.png", "caption": "", "group": "g"}] * 2)
        left_out = open_pairs(
            put_jsonl(tmp_path / "x.jsonl", [{"image": "one/images/0.png", "caption": c} for c in ("w", "")]),
            max_skipped=0.5,
        )

        together = PairTable.concat([*tables, left_out])

        assert len(together) == 7
        assert together.image(5).size == (40, 30)
        assert together.skipped == [("x: x.jsonl line 2", "its caption is empty")]

    def test_tables_of_one_name_are_an_error(self, table):
        with pytest.raises(DataError, match="give at least one, and each a name of its own"):
            PairTable.concat([table, table])
        with pytest.raises(DataError, match="give at least one"):
            PairTable.concat([])
        assert PairTable.concat([table]) is table


def test_further_captions_are_unfolded_in_parts(table, monkeypatch):
    whole = table.as_pairs()
    monkeypatch.setattr("truepair.data.table.IMAGES", 2)
    parts = table.as_pairs()

    assert parts.rows[:] == whole.rows[:]


@pytest.mark.parametrize("block", [1, 2, 100])
def test_captions_come_in_order_whatever_is_read_at_once(monkeypatch, block):
    monkeypatch.setattr("truepair.data.table.BLOCK", block)
    texts = [["a", "b"], ["c"], ["d", "e", "f"], ["g"]]
    chosen = table_of(texts).select([3, 0, 2])

    assert list(chosen.captions()) == ["g", "a", "b", "d", "e", "f"]
    assert list(chosen.captions(2)) == ["g", "b", "e"]
    assert list(chosen.captions(4)) == ["g", "e"]
    assert chosen.first_caption_keys(np.array([2, 0])).tolist() == [caption_key("d"), caption_key("g")]
    assert chosen.caption_counts.tolist() == [1, 2, 3]
    assert chosen.caption_ids.tolist() == [number for row in chosen.rows["caption_ids"] for number in row]
    assert chosen.values("captions") == [["g"], ["a", "b"], ["d", "e", "f"]]


def test_lists_that_are_not_there_are_none():
    names = [["a"], None, [], ["b", "c"]]

    assert table_of(["w", "x", "y", "z"], names=names).values("names") == names


def test_all_rows_in_order_are_the_table_itself(table):
    same = table.select(range(4))

    assert same._chosen is None and same.values("captions") == table.values("captions")
    assert table.split("train+test")._chosen is None
    assert table.select([3, 1]).select([0, 1]).numbers.tolist() == [3, 1]
