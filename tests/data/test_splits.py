"""What a run trains on, validates on and tests on, and what is said of it."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.makers import encoded, noise, put
from truepair.data.identity import held_out
from truepair.data.open import open_pairs
from truepair.data.source import SourceConfig
from truepair.data.splits import DataConfig, Tables, build_tables, open_sources
from truepair.data.table import PairTable
from truepair.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lists of 40, 10 and 10 pictures, and one of all 60 with and without their splits."""
    monkeypatch.chdir(tmp_path)
    for number in range(60):
        put(tmp_path / "pictures" / f"{number}.png", noise(number, (4, 4)))
    parts = {"train": range(40), "val": range(40, 50), "test": range(50, 60)}
    for name, numbers in parts.items():
        write(tmp_path / f"{name}.csv", numbers)
    write(tmp_path / "all.csv", range(60))
    rows = [f"pictures/{number}.png,picture {number},{name}" for name, numbers in parts.items() for number in numbers]
    put(tmp_path / "stated.csv", "\n".join(["image,caption,split", *rows]))
    return tmp_path


def write(file: Path, numbers: range) -> None:
    rows = [f"pictures/{number}.png,picture {number}" for number in numbers]
    put(file, "\n".join(["image,caption", *rows]))


def sizes(tables: Tables) -> tuple[int, int, int]:
    return len(tables.train), len(tables.validation or ()), len(tables.test or ())  # type: ignore[arg-type]


def test_files_named_for_splits_are_the_splits(folder: Path) -> None:
    tables = build_tables(DataConfig(sources=["train.csv", "val.csv", "test.csv"]))
    assert sizes(tables) == (40, 10, 10)
    assert tables.describe() == [
        "pairs of train+val+test: 40 train, 10 validate, 10 test (splits: by names of files and folders)"
    ]


def test_fields_say_the_splits_whatever_the_files_are_called(folder: Path) -> None:
    tables = build_tables(DataConfig(train=["test.csv"], validation=["train.csv"], test=["val.csv"]))
    assert sizes(tables) == (10, 40, 10)
    first, *notes = tables.describe()
    assert first.endswith("10 train, 40 validate, 10 test (splits: by data.train, data.validation, data.test)")
    assert notes[0] == (
        "data.train takes all 10 pairs of test, whatever their splits: test (10); to go by these, give --data.sources "
        "test.csv"
    )
    assert len(notes) == 3  # each field is filled by a file that is called something else


def test_a_part_of_a_file_can_be_named(folder: Path) -> None:
    part = SourceConfig(source="stated.csv", split="val")
    tables = build_tables(DataConfig(train=["train.csv"], validation=[part]))
    assert sizes(tables) == (40, 10, 0)
    assert tables.notes == ()


def test_fields_replace_the_splits_of_sources(folder: Path) -> None:
    tables = build_tables(DataConfig(sources=["stated.csv"], test=["val.csv"]))
    assert sizes(tables) == (40, 10, 10)
    assert tables.describe()[0].endswith("(splits: stated by rows, by data.test)")
    assert "stated: not used, since data.test is given: test (10)" in tables.notes
    everything = build_tables(DataConfig(sources=["stated.csv"], test=["val.csv"], train_split=""))
    assert sizes(everything) == (50, 10, 10)


def test_ids_of_training_pairs_do_not_hang_on_held_out_sources(folder: Path) -> None:
    write(folder / "more" / "val.csv", range(5))
    more = SourceConfig(source="more/val.csv", split="val", image_root=str(folder))
    for sources in (["train.csv"], ["train.csv", "all.csv"], ["train.csv", more]):
        alone = build_tables(DataConfig(train=list(sources))).train
        beside = build_tables(DataConfig(sources=list(sources), train_split="", test=["val.csv"])).train
        named = build_tables(DataConfig(train=list(sources), validation=["val.csv"], test=["test.csv"])).train
        for table in (beside, named):
            assert table.image_ids.tolist() == alone.image_ids.tolist()
            assert table.values("caption_ids") == alone.values("caption_ids")
    held = build_tables(DataConfig(train=["all.csv"], test=["test.csv"]))
    assert held.test is not None and not set(held.test.image_ids) & set(held.train.image_ids)


def test_files_of_one_name_are_told_apart(folder: Path) -> None:
    for name, numbers in (("train", range(40)), ("val", range(40, 50))):
        write(folder / name / "pairs.csv", numbers)
    root = {"image_root": str(folder)}
    sources = [SourceConfig(source=f"{name}/pairs.csv", **root) for name in ("train", "val")]  # type: ignore[arg-type]
    tables = build_tables(DataConfig(sources=list(sources)))
    assert tables.train.name == "train/pairs+val/pairs" and sizes(tables) == (40, 10, 0)
    same = build_tables(DataConfig(train=["all.csv"], test=["all.csv"]))
    assert same.train.name == "all+all (test)"
    assert "60 test pairs are of pictures that are trained on, which flatters the figures" in same.notes


def test_without_splits_all_rows_train_and_a_line_says_what_is_missing(folder: Path) -> None:
    tables = build_tables(DataConfig(sources=["all.csv"]))
    assert sizes(tables) == (60, 0, 0)
    assert tables.describe() == [
        "pairs of all: 60 train (splits: train where none is stated)",
        "no validation or test pairs: no best model can be told and the last is kept, and there are no figures at the "
        "end; give --data.validation FILE or --data.validation_share 0.05, and --data.test FILE or "
        "--data.test_share 0.1",
    ]
    unwanted = build_tables(DataConfig(sources=["all.csv"], validation_split="", test_split=""))
    assert unwanted.lacking == ""
    only = build_tables(DataConfig(sources=["train.csv", "val.csv"]))
    assert only.lacking == (
        "no test pairs: there are no figures at the end; give --data.test FILE or --data.test_share 0.1"
    )


def test_splits_that_nothing_reads_are_told(folder: Path) -> None:
    put(folder / "more.csv", "image,caption,split\npictures/1.png,x,restval\npictures/2.png,y,train\n")
    tables = build_tables(DataConfig(sources=["more.csv"]))
    assert "not used: restval (1); to train on restval, too: --data.train_split train+restval" in tables.notes
    both = build_tables(DataConfig(sources=["more.csv"], train_split="train+restval"))
    assert not [note for note in both.notes if "not used" in note or "alone" in note]


def test_what_is_there_to_measure_is_not_offered_for_training(folder: Path) -> None:
    tables = build_tables(DataConfig(sources=["stated.csv"], test_split=""))
    assert [note for note in tables.notes if "not used" in note] == ["not used: test (10)"]


def test_of_several_splits_those_that_are_there_are_taken(folder: Path) -> None:
    tables = build_tables(DataConfig(sources=["stated.csv"], train_split="train+restval", test_split="test+val"))
    assert len(tables.train) == 40 and tables.test is not None and len(tables.test) == 20
    said = "data.train_split is 'train+restval', and stated has no restval: it is train alone"
    assert [note for note in tables.notes if "alone" in note] == [said]
    with pytest.raises(DataError, match=r"stated has no split 'restval'; it has test \(10\), train \(40\), val \(10\)"):
        build_tables(DataConfig(sources=["stated.csv"], train_split="restval"))
    with pytest.raises(DataError, match=r"data\.train_split: stated has no split 'trian'.*'train'"):
        build_tables(DataConfig(sources=["stated.csv"], train_split="train+trian"))


def test_pictures_are_held_out_whole(folder: Path) -> None:
    rows = [f"pictures/{number}.png,caption {again} of {number}" for again in range(3) for number in range(60)]
    put(folder / "lines.csv", "\n".join(["image,caption", *rows]))
    tables = build_tables(DataConfig(sources=["lines.csv"], validation_share=0.2))
    assert tables.validation is not None
    assert len(tables.train) + len(tables.validation) == 180
    assert not set(tables.train.image_ids) & set(tables.validation.image_ids)
    assert 3 * 4 <= len(tables.validation) <= 3 * 22  # 12 of 60 pictures are expected, 3 captions each
    assert not [note for note in tables.notes if "flatters" in note]
    assert "the pairs that validate are held out of the training pairs, by data.validation_share" in tables.notes
    present = build_tables(DataConfig(sources=["stated.csv"], validation_share=0.2, test_share=0.2))
    assert sizes(present) == (40, 10, 10)
    assert "data.validation_share is not needed: there are pairs that validate" in present.notes
    assert "data.test_share is not needed: there are pairs to test on" in present.notes
    tested = build_tables(DataConfig(sources=["lines.csv"], test_share=0.2)).test
    assert tested is not None
    both = build_tables(DataConfig(sources=["lines.csv"], validation_share=0.2, test_share=0.2))
    parts = [part for part in (both.train, both.validation, both.test) if part is not None]
    kept = [set(part.image_ids.tolist()) for part in parts]
    assert sum(map(len, kept)) == len(set.union(*kept)) == 60
    assert kept[2] == set(tested.image_ids.tolist())  # what is tested on does not hang on what validates


def test_a_picture_that_two_lists_name_is_on_one_side(folder: Path) -> None:
    rows = [f"pictures/{number}.png,another caption of {number}" for number in range(60)]
    put(folder / "again.csv", "\n".join(["image,caption", *rows]))
    tables = build_tables(DataConfig(sources=["all.csv", "again.csv"], validation_share=0.3))
    assert tables.validation is not None
    counted = [np.unique(table.picture_keys) for table in (tables.train, tables.validation)]
    assert sum(map(len, counted)) == 60
    assert not {cell["path"] for cell in tables.train.values("image")} & {
        cell["path"] for cell in tables.validation.values("image")
    }


def test_a_share_that_leaves_nothing_is_one_line(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"validation_share 1e-05 of the 60 training pairs of all leaves none for valid"
    ):
        build_tables(DataConfig(sources=["all.csv"], validation_share=1e-5))


def test_embedded_pictures_are_known_by_their_ids(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = [encoded(noise(number)) for number in (0, 1, 1)]
    pq.write_table(pa.table({"image": data, "caption": ["a", "b", "c"], "image_id": [5, 6, 6]}), tmp_path / "x.parquet")
    table = open_pairs(tmp_path / "x.parquet")
    assert table.picture_keys.tolist() == [5, 6, 6]
    assert table.places.to_pylist() == [None] * 3


@settings(max_examples=50)
@given(rows=st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 5)), min_size=1, max_size=12))
def test_keys_of_pictures_are_those_of_a_slow_reference(rows: list[tuple[int, int | None]]) -> None:
    import pyarrow as pa
    from datasets import Dataset

    from truepair.data.store.rows import _COLUMNS

    cells = [
        {"image": {"bytes": b"x"} if place is None else {"path": f"{place}.png"}, "image_id": number, "split": "train"}
        for number, place in rows
    ]
    table = PairTable(Dataset(pa.Table.from_pylist(cells, schema=pa.schema(_COLUMNS))))
    same = [{row} for row in range(len(rows))]
    for one, other in product(range(len(rows)), repeat=2):
        (number, place), (its_number, its_place) = rows[one], rows[other]
        if number == its_number or (place is not None and place == its_place):
            joined = same[one] | same[other]
            for row in joined:
                same[row] = joined
    assert table.picture_keys.tolist() == [min(rows[row][0] for row in copies) for copies in same]
    shares = [set(np.flatnonzero(held_out(table, share)).tolist()) for share in (0.0, 0.3, 0.7)]
    assert shares[0] == set() and shares[1] <= shares[2]


def test_a_run_without_training_pairs_is_one_line(folder: Path) -> None:
    for config, line in (
        (
            DataConfig(sources=["test.csv"]),
            r"test has no split 'train'; it has test \(10\) \(splits: by names of files .*FILE",
        ),
        (DataConfig(sources=["nowhere.csv"]), r"^data\.sources: no such file or folder: nowhere\.csv; check the path"),
        (DataConfig(train=["train.csv"], test=["x.csv"]), r"^data\.test: no such file or folder: x\.csv"),
    ):
        with pytest.raises(DataError, match=line):
            build_tables(config)
    with pytest.raises(ConfigError, match=r"name the pairs to train on: .* --data\.sources or --data\.train; "):
        open_sources(DataConfig(validation=["val.csv"]))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"sources": "a.csv"}, r"data\.sources is no list; give \['a\.csv'\]"),
        ({"sources": []}, r"data\.sources is empty; name at least one"),
        ({"train": ["a.csv"], "test": []}, r"data\.test is empty; name at least one"),
        ({"sources": ["a.csv"], "train": ["b.csv"]}, "both say what to train on; give one of them"),
        ({"validation_share": 1.0}, r"data\.validation_share is 1\.0; give a number from 0 to below 1"),
    ],
)
def test_impossible_settings_are_one_line(fields: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        replace(DataConfig(), **fields)  # type: ignore[arg-type]


def test_captions_are_counted_where_they_are_more_than_rows(folder: Path) -> None:
    put(folder / "five.jsonl", '{"image": "pictures/1.png", "captions": ["a", "b", "c"]}\n')
    assert (
        build_tables(DataConfig(sources=["five.jsonl"]))
        .describe()[0]
        .startswith("pairs of five: 1 (of 3 captions) train (splits: ")
    )
    assert len(build_tables(DataConfig(sources=["five.jsonl"], captions="pairs")).train) == 3


@pytest.mark.parametrize("field", ["validation_split", "test_split"])
def test_a_split_that_does_not_exist_is_refused(folder: Path, field: str) -> None:
    for word in ("vall", "val+vall"):
        with pytest.raises(DataError, match=rf"data\.{field}: .* has no split 'vall' \(did you mean 'val'\?\); it has"):
            build_tables(DataConfig(sources=["train.csv", "val.csv"], **{field: word}))
    build_tables(DataConfig(sources=["train.csv", "val.csv"], **{field: "restval"}))  # a usual one may be missing


@pytest.mark.parametrize("share", [float("nan"), float("inf"), -0.1, 7.0])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.max_bad_fraction is .*; give a (finite number|number from 0 to 1)"):
        DataConfig(max_bad_fraction=share)
