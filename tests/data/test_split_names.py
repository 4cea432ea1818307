"""Words and names that speak of splits, in every format."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.formats.test_webdataset import sample
from tests.data.makers import encoded, picture, put, put_json, put_jsonl, put_tar
from truepair.data import open_pairs
from truepair.data.split_names import split_in_name, split_of_word


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("captions_val2014", "val"),
        ("Validation-00000-of-00002", "val"),
        ("flickr30k_test", "test"),
        ("cc3m-training-0003", "train"),
        ("dev", "val"),
        ("eval", "test"),
        ("restval", "restval"),
        ("pairs", None),
        ("latest", None),  # ends in the letters of "test"
        ("trainers", None),
        ("train_val", None),  # of several, a name says none
    ],
)
def test_a_name_speaks_of_one_split_or_of_none(name, split):
    assert split_in_name(name) == split


def test_words_of_rows_are_brought_to_one_name():
    assert [split_of_word(word) for word in ("Validation", " dev", "TRAIN", "testing")] == [
        "val",
        "val",
        "train",
        "test",
    ]
    assert split_of_word("fold 3") == "fold 3"


def csv_file(path):
    return put(path, "image,caption\na.png,x\n")


def parquet(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [encoded(picture())], "caption": ["x"]}), path)
    return path


def tar(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return put_tar(path, sample("a", "red", "x"))


MAKERS = {
    ".csv": csv_file,
    ".tsv": lambda path: put(path, "image\tcaption\na.png\tx\n"),
    ".jsonl": lambda path: put_jsonl(path, [{"image": "a.png", "caption": "x"}]),
    ".json": lambda path: put_json(path, [{"image": "a.png", "caption": "x"}]),
    ".parquet": parquet,
    ".tar": tar,
}


@pytest.mark.parametrize("ending", MAKERS)
@pytest.mark.parametrize(
    ("place", "split", "origin"),
    [
        ("test", "test", "named"),
        ("my_validation", "val", "named"),
        ("val2014/pairs", "val", "named"),
        ("flickr_test/train-1", "train", "named"),  # the file's own name comes first
        ("flickr_test/pairs", "test", "named"),
        ("test1/pairs", "train", "none"),
        ("pairs", "train", "none"),
    ],
)
def test_a_file_gives_its_rows_the_split_it_is_named_for(tmp_path, ending, place, split, origin):
    put(tmp_path / f"{place}x" / ".." / "a.png", picture())
    put((tmp_path / place).parent / "a.png", picture())

    table = open_pairs(MAKERS[ending](tmp_path / f"{place}{ending}"))

    assert table.splits == {split: 1}
    assert table.split_origins == {origin}


@pytest.mark.parametrize("ending", [".parquet", ".tar"])
def test_a_folder_is_a_split_also_when_it_is_the_only_one(tmp_path, ending):
    MAKERS[ending](tmp_path / "root" / "test" / f"0{ending}")

    assert open_pairs(tmp_path / "root").splits == {"test": 1}
    assert open_pairs(tmp_path / "root" / "test").splits == {"test": 1}
    assert open_pairs(tmp_path / "root" / "test" / f"*{ending}").splits == {"test": 1}
    assert open_pairs(tmp_path / "root" / "*" / f"0{ending}").splits == {"test": 1}


def test_folders_of_pictures_name_splits_but_pictures_do_not(tmp_path):
    for place in ("train/test_3", "val/cats/b", "train/test tubes/c", "COCO_val2014_7"):
        put(tmp_path / "root" / f"{place}.png", picture())
        put(tmp_path / "root" / f"{place}.txt", place)

    table = open_pairs(tmp_path / "root")

    found = dict(zip((text for (text,) in table.rows["captions"]), table.rows["split"], strict=True))
    assert found == {
        "train/test_3": "train",
        "val/cats/b": "val",
        "train/test tubes/c": "train",  # the folder that is called nothing but a split comes before one that holds it
        "COCO_val2014_7": "train",
    }
    assert table.split_origins == {"named", "none"}
    assert open_pairs(tmp_path / "root" / "val").splits == {"val": 1}


def test_the_folder_of_a_saved_data_set_names_its_split(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [encoded(picture())], "caption": ["x"]})
    rows.save_to_disk(str(tmp_path / "test"))

    assert open_pairs(tmp_path / "test").splits == {"test": 1}


def test_a_stated_split_wins_over_the_name(tmp_path):
    put(tmp_path / "a.png", picture())
    source = put(tmp_path / "test.csv", "image,caption,split\na.png,x,Validation\na.png,y,\n")

    table = open_pairs(source)

    assert table.rows["split"][:] == ["val", "test"]
    assert table.split_origins == {"stated", "named"}
    assert len(open_pairs(source, split="validation")) == 1


def test_only_what_the_user_wrote_is_asked(tmp_path, monkeypatch):
    put(tmp_path / "test" / "a.png", picture())
    csv_file(tmp_path / "test" / "pairs.csv")
    monkeypatch.chdir(tmp_path / "test")

    assert open_pairs("pairs.csv").splits == {"train": 1}
    monkeypatch.chdir(tmp_path)
    assert open_pairs("test/pairs.csv").splits == {"test": 1}
    monkeypatch.chdir(tmp_path / "test")
    assert open_pairs("pairs.csv").splits == {"train": 1}
