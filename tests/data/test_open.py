import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.makers import encoded, noise, photos, picture, put, put_json, put_jsonl
from truepair.data import SourceConfig, open_pairs
from truepair.data.identity import contradictions
from truepair.data.store.cache import finish_rows
from truepair.data.store.paths import ImagePaths
from truepair.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c", "images/d"):
        put(tmp_path / f"{name}.png", picture())
    return tmp_path


def lines(folder, *entries, name="pairs.jsonl"):
    return put_jsonl(folder / name, entries)


def test_the_bundled_sample():
    table = open_pairs("sample", split="val")

    assert table.name == "sample"
    assert len(table) == 260
    assert table.image(0).size == (72, 72)
    row = table.rows[0]
    assert row["captions"][0] in row["names"] and len(row["names"]) > 1
    assert {"group", "family", "vendor", "licence", "split_concept"} <= set(row)


def test_all_options_may_come_in_a_config(folder):
    source = lines(folder, {"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": "y", "split": "test"})

    table = open_pairs(SourceConfig(source=str(source), split="test", name="tiny"))

    assert (table.name, table.rows["captions"][:]) == ("tiny", [["y"]])
    assert len(open_pairs(SourceConfig(source=str(source)), split="train")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_rot": "x"}, r"no option 'image_rot' \(did you mean 'image_root'\?\); give source"),
        ({"format": "xml"}, "unknown format 'xml'; give auto, sample, albef"),
        ({"on_bad": "maybe"}, "on_bad is 'maybe'; give skip or error"),
        ({"max_skipped": 2.0}, "max_skipped is 2.0"),
    ],
)
def test_unknown_options_are_errors(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        open_pairs(folder / "pairs.jsonl", **options)


@pytest.mark.parametrize("options", [{}, {"format": "jsonl"}])
@pytest.mark.parametrize("source", ["nowhere.jsonl", "./nowhere", "/no/where", "s-*.jsonl"])
def test_a_source_that_is_not_there(tmp_path, monkeypatch, source, options):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(DataError, match="no such file or folder"):
        open_pairs(source, **options)


@pytest.mark.parametrize("name", ["pairs.xml", "pairs"])
def test_an_ending_that_tells_nothing(tmp_path, name):
    with pytest.raises(DataError, match="does not tell its format; give format"):
        open_pairs(put(tmp_path / name, "x"))


@pytest.mark.parametrize("name", ["photos.zip", "pairs.csv.gz", "x.tar.gz", "x.TGZ"])
@pytest.mark.parametrize("pattern", [False, True])
def test_an_archive_is_to_be_unpacked(tmp_path, name, pattern):
    path = put(tmp_path / name, "x")
    if pattern:
        with pytest.raises(DataError, match="is an archive; unpack it"):
            open_pairs(f"{tmp_path}/*{path.suffix}")
    with pytest.raises(DataError, match=rf"{name} is an archive; unpack it, and give the file or folder"):
        open_pairs(path)


def test_a_folder_without_pairs(tmp_path):
    put(tmp_path / "inner" / "notes.md", "x")

    with pytest.raises(DataError, match="holds no tar, Parquet or image files"):
        open_pairs(tmp_path)


def test_a_folder_of_images_may_have_a_plain_readme(tmp_path):
    put(tmp_path / "README.md", "# My pictures")
    put(tmp_path / "a.png", picture())
    put(tmp_path / "a.txt", "a")

    assert len(open_pairs(tmp_path)) == 1


def test_json_of_no_known_layout(tmp_path):
    with pytest.raises(DataError, match="neither a JSON list of pairs nor in the layout of Karpathy or COCO"):
        open_pairs(put_json(tmp_path / "x.json", {"images": [{"note": 'a key "annotations": in a text'}]}))


def test_a_source_without_pairs(tmp_path):
    with pytest.raises(DataError, match="holds no pairs"):
        open_pairs(put(tmp_path / "x.jsonl", "\n"))


def test_a_split_that_is_not_there(folder):
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        open_pairs(lines(folder, {"image": "a.png", "caption": "x"}), split="test")


class TestImageRoot:
    def test_images_may_be_in_a_folder_beside_the_file(self, folder):
        table = open_pairs(lines(folder, {"image": "missing.png", "caption": "x"}, {"image": "d.png", "caption": "y"}))

        assert table.image(1).size == (12, 8)

    def test_images_that_are_nowhere_are_an_error(self, folder):
        with pytest.raises(DataError, match=r"none of the first 1 images .* \(z\.png, for one\); give image_root"):
            open_pairs(lines(folder, {"image": "z.png", "caption": "x"}))

    @pytest.mark.parametrize("path", ["../secret.png", "images/../../secret.png", "/etc/secret.png"])
    def test_paths_that_leave_it_are_an_error(self, folder, path):
        put(folder.parent / "secret.png", picture())
        source = lines(folder, {"image": "a.png", "caption": "x"}, {"image": path, "caption": "y"})

        with pytest.raises(DataError, match=r"pairs\.jsonl line 2: image path .* leaves the image root"):
            open_pairs(source)

    def test_paths_that_leave_it_can_be_allowed(self, folder):
        put(folder.parent / "secret.png", picture("blue"))
        source = lines(folder, {"image": str(folder.parent / "secret.png"), "caption": "x"})

        assert open_pairs(source, allow_outside_root=True).image(0).getpixel((0, 0)) == (30, 30, 220)

    def test_absolute_paths_within_it_are_fine(self, folder):
        assert len(open_pairs(lines(folder, {"image": str(folder / "a.png"), "caption": "x"}))) == 1

    def test_a_sibling_whose_name_begins_alike_is_outside(self, folder):
        put(folder.parent / f"{folder.name}-other" / "a.png", picture())

        with pytest.raises(DataError, match="leaves the image root"):
            open_pairs(lines(folder, {"image": f"../{folder.name}-other/a.png", "caption": "x"}))

    def test_a_zero_byte_in_a_path_is_an_error(self, folder):
        with pytest.raises(DataError, match="holds a zero byte"):
            open_pairs(lines(folder, {"image": "a.png\0.txt", "caption": "x"}))

    @settings(max_examples=200)
    @given(parts=st.lists(st.sampled_from(["..", ".", "x", "", "y.png", "...", "~"]), min_size=1, max_size=6))
    @pytest.mark.parametrize("start", ["", "/", "/data/root/", "/data/rooted/"])
    def test_a_path_resolves_below_the_root_or_not_at_all(self, start, parts):
        stated = start + "/".join(parts)
        target = Path(os.path.normpath(Path("/data/root", stated)))
        paths = ImagePaths(SourceConfig(source="x", image_root="/data/root"), [], [])

        try:
            resolved = paths.resolve(stated, "here")
        except DataError:
            assert Path("/data/root") not in target.parents
        else:
            assert Path(resolved) == target and Path("/data/root") in target.parents


class TestCaptions:
    @pytest.mark.parametrize(
        ("caption", "why"),
        [
            ("", "its caption is empty"),
            ("  \n", "its caption is empty"),
            (None, "its caption is empty"),
            ("x" * 10_001, "its caption has 10001 characters, more than max_caption_length"),
            ("\ud83d", "its caption is not UTF-8"),
            (7, "its caption is not text but 7"),
            ([], "it has no caption"),
        ],
    )
    def test_unusable_ones_are_listed_or_an_error(self, folder, caption, why):
        source = lines(folder, {"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": caption})

        table = open_pairs(source, max_skipped=0.5)

        assert table.rows["captions"][:] == [["x"]]
        assert table.skipped == [("pairs.jsonl line 2", why)]
        with pytest.raises(DataError, match=f"pairs.jsonl line 2: {why}; repair it"):
            open_pairs(source, on_bad="error")

    def test_the_good_captions_of_a_row_are_kept_with_their_ids(self, folder):
        entry = {"image": "a.png", "captions": ["x", "", "z"], "caption_ids": [1, 2, 3]}

        table = open_pairs(lines(folder, entry))

        assert (table.rows[0]["captions"], table.rows[0]["caption_ids"]) == (["x", "z"], [1, 3])
        assert table.skipped == [("pairs.jsonl line 1, caption 2", "its caption is empty")]

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("x.jsonl", b'{"image": "a.png", "caption": "caf\xe9"}\n{"image": "b.png", "caption": "ok"}\n'),
            ("x.json", b'[{"image": "a.png", "caption": "caf\xe9"}, {"image": "b.png", "caption": "ok"}]'),
            ("x.csv", b"image,caption\na.png,caf\xe9\nb.png,ok\n"),
        ],
    )
    def test_bytes_that_are_not_utf8_are_listed(self, folder, name, content):
        table = open_pairs(put(folder / name, content), max_skipped=0.5)

        assert table.rows["captions"][:] == [["ok"]]
        assert [why for _, why in table.skipped] == ["its caption is not UTF-8"]

    def test_bytes_that_are_not_utf8_in_a_text_file_are_listed(self, tmp_path):
        put(tmp_path / "a.png", picture())
        put(tmp_path / "a.txt", b"caf\xe9\nok\n")

        assert open_pairs(tmp_path).rows["captions"][:] == [["ok"]]

    def test_a_byte_order_mark_is_no_part_of_the_data(self, folder):
        table = open_pairs(put(folder / "x.csv", "\ufeffimage,caption\na.png,x\n"))

        assert len(table) == 1

    def test_too_many_unusable_rows_are_an_error(self, folder):
        entries = [{"image": "a.png", "caption": c} for c in ("x", "", "")]

        with pytest.raises(DataError, match=r"2 of 3 rows .* over max_skipped .* the first: pairs\.jsonl line 2: its"):
            open_pairs(lines(folder, *entries))

    def test_repeated_captions_of_one_image_have_ids_of_their_own(self, folder):
        table = open_pairs(lines(folder, {"image": "a.png", "captions": ["x", "x", "y"]}))

        assert table.rows[0]["captions"] == ["x", "x", "y"]
        assert len(set(table.rows[0]["caption_ids"])) == 3


class TestIds:
    def test_one_image_id_with_two_pictures_is_one_picture_and_named(self, folder):
        put(folder / "b.png", noise(1))
        rows = [{"image": f"{name}.png", "caption": name, "image_id": 5} for name in "ab"]
        source = lines(folder, *rows)

        table = open_pairs(source)
        assert table.pictures.tolist() == [0, 0]
        assert contradictions(table) == [
            f"pairs: 1 image id stands for several pictures (5: {folder / 'a.png'}, {folder / 'b.png'}); all rows of "
            "an id count as one picture: repair them, or set derive_ids"
        ]
        merged = open_pairs(source, repeats="merge")
        assert merged.rows["captions"][:] == [["a", "b"]]
        assert [why.partition(":")[0] for _, why in merged.skipped] == [
            f"it shares its image id with image {folder / 'a.png'}"
        ]
        derived = open_pairs(source, derive_ids=True)
        assert len(set(derived.image_ids.tolist())) == 2
        assert contradictions(derived) == []

    def test_embedded_images_are_compared_by_their_bytes(self, tmp_path):
        red, blue = encoded(picture("red")), encoded(picture("blue"))
        for name, second in (("same", red), ("other", blue)):
            columns = {"image": [red, second], "caption": ["x", "y"], "image_id": [5, 5]}
            pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")

        assert not any("image id" in line for line in contradictions(open_pairs(tmp_path / "same.parquet")))
        (line,) = contradictions(open_pairs(tmp_path / "other.parquet"))
        assert "1 image id stands for several pictures (5: row 0, row 1)" in line

    @pytest.mark.parametrize(
        "second", [{"image": "b.png", "captions": ["x"]}, {"image": "a.png", "captions": ["other"]}]
    )
    def test_one_caption_id_with_two_captions_is_an_error(self, folder, second):
        first = {"image": "a.png", "captions": ["x"], "caption_ids": [9]}
        source = lines(folder, first, {**second, "caption_ids": [9]})

        with pytest.raises(DataError, match="caption id 9 stands for two captions"):
            open_pairs(source)
        assert len(open_pairs(source, derive_ids=True)) == 2

    def test_a_row_that_is_there_twice_keeps_its_ids(self, folder):
        entry = {"image": "a.png", "captions": ["x"], "caption_ids": [9], "image_id": 1}

        assert open_pairs(lines(folder, entry, entry)).rows["caption_ids"][:] == [[9], [9]]

    def test_images_of_two_splits_are_not_merged(self, folder):
        rows = [{"image": "a.png", "caption": s, "split": s} for s in ("train", "test", "train")]

        table = open_pairs(lines(folder, *rows), repeats="merge")

        assert table.splits == {"test": 1, "train": 1}

    def test_derived_ids_outlive_a_change_of_order(self, folder):
        rows = [{"image": f"{name}.png", "captions": [name, "x"]} for name in "abc"]
        forwards = open_pairs(lines(folder, *rows, name="one.jsonl"))
        backwards = open_pairs(lines(folder, *reversed(rows), name="two.jsonl"))

        assert forwards.image_ids.tolist() == backwards.image_ids.tolist()[::-1]
        assert forwards.rows["caption_ids"][:] == backwards.rows["caption_ids"][::-1]


def made(own_cache):
    """What lies in the cache beside the locks."""
    return [path for path in (own_cache / "truepair").iterdir() if path.suffix != ".lock"]


class TestCache:
    def test_a_source_is_read_once_and_memory_mapped(self, folder, monkeypatch, own_cache):
        source = lines(folder, {"image": "a.png", "caption": "x"})
        first = open_pairs(source)
        monkeypatch.setattr("truepair.data.store.cache.write_rows", None)

        second = open_pairs(source)

        assert second.rows[:] == first.rows[:]
        assert [os.path.commonpath([f["filename"], own_cache]) for f in second.rows.cache_files] == [str(own_cache)]

    def test_the_sample_is_read_once_wherever_the_user_is(self, tmp_path, monkeypatch, own_cache):
        open_pairs("sample")
        monkeypatch.chdir(tmp_path)
        open_pairs("sample")

        assert len(made(own_cache)) == 1

    def test_a_changed_source_is_read_again(self, folder):
        source = lines(folder, {"image": "a.png", "caption": "x"})
        open_pairs(source)

        lines(folder, {"image": "a.png", "caption": "changed"})

        assert open_pairs(source).rows["captions"][:] == [["changed"]]

    def test_what_was_left_out_is_remembered(self, folder):
        source = lines(folder, {"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": ""})

        assert open_pairs(source, max_skipped=0.5).skipped == open_pairs(source, max_skipped=0.5).skipped != []

    def test_a_failed_reading_leaves_nothing_behind(self, folder, own_cache):
        with pytest.raises(DataError):
            open_pairs(put(folder / "x.jsonl", '{"image": "a.png", "caption": "x"}\n{\n{'))

        assert made(own_cache) == []

    def test_two_may_read_a_source_at_once(self, folder, monkeypatch, own_cache):
        source = lines(folder, {"image": "a.png", "caption": "x"})
        builds, began = [], threading.Event()

        def slowly(*arguments, **options):
            builds.append(None)
            began.set()
            time.sleep(0.3)
            finish_rows(*arguments, **options)

        monkeypatch.setattr("truepair.data.store.cache.finish_rows", slowly)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(open_pairs, source)
            began.wait(60)
            second = open_pairs(source)

        assert first.result().rows[:] == second.rows[:]
        assert len(made(own_cache)) == len(builds) == 1

    def test_a_folder_that_cannot_be_written_is_an_error(self, folder):
        source = lines(folder, {"image": "a.png", "caption": "x"})

        with pytest.raises(DataError, match=r"cannot be written .* give cache_dir"):
            open_pairs(source, cache_dir=put(folder / "file", "x") / "cache")

    def test_more_rows_than_one_batch(self, tmp_path):
        put(tmp_path / "a.png", noise(0))
        entries = [{"image": "a.png", "caption": f"caption {number}"} for number in range(2500)]

        table = open_pairs(put_jsonl(tmp_path / "x.jsonl", entries))

        assert table.rows[2499]["captions"] == ["caption 2499"]
        assert len(set(table.image_ids.tolist())) == 1


def test_images_are_decoded_lazily(tmp_path):
    source = photos(tmp_path, 3)
    put(tmp_path / "images" / "1.png", b"not an image")

    table = open_pairs(source)

    assert len(table) == 3
    assert table.image(2).size == (40, 30)


def test_backslashes_of_a_list_made_on_windows_are_folders(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("photos/a.png", "photos/b.png"):
        put(tmp_path / name, picture())
    (tmp_path / "pairs.csv").write_text("image,caption\nphotos\\a.png,a dog\nphotos\\b.png,a cat\n")
    table = open_pairs(tmp_path / "pairs.csv", identity="file")
    assert [cell["path"] for cell in table.values("image")] == [
        str(tmp_path / "photos" / f"{name}.png") for name in "ab"
    ]
    (tmp_path / "out.csv").write_text("image,caption\n..\\..\\a.png,a dog\nphotos\\b.png,a cat\n")
    with pytest.raises(DataError, match="leaves the image root"):
        open_pairs(tmp_path / "out.csv")
    put(tmp_path / "odd\\name.png", picture())
    (tmp_path / "odd.csv").write_text("image,caption\nodd\\name.png,a dog\n")
    assert [cell["path"] for cell in open_pairs(tmp_path / "odd.csv").values("image")] == [
        str(tmp_path / "odd\\name.png")
    ]
