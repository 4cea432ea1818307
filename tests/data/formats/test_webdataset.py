import io
import json
import pickle
import tarfile

import pytest

from tests.data.makers import encoded, picture, put
from truepair.data import open_pairs
from truepair.errors import DataError


def shard(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            data = content.encode() if isinstance(content, str) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sample(key, colour, caption):
    return [(f"{key}.jpg", encoded(picture(colour), "JPEG")), (f"{key}.txt", caption)]


def test_images_are_read_from_their_place_in_the_shard(tmp_path):
    shard(tmp_path / "s-000.tar", [*sample("00/a", "red", "one"), *sample("00/b", "blue", "two")])
    shard(tmp_path / "s-001.tar", sample("00/a", "green", "three"))

    table = open_pairs(tmp_path / "s-{000..001}.tar")

    assert table.rows["captions"][:] == [["one"], ["two"], ["three"]]
    assert len(set(table.image_ids.tolist())) == 3
    assert [max(range(3), key=table.image(i).getpixel((0, 0)).__getitem__) for i in range(3)] == [0, 2, 1]
    assert table.rows["image"][0]["bytes"] is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s-000.tar", "s-001.tar"]


@pytest.mark.parametrize("pattern", ["s-*.tar", "s-00[01].tar", "s-{000..001}.tar", "."])
def test_shards_are_named_by_pattern_range_or_folder(tmp_path, pattern):
    shard(tmp_path / "s-000.tar", sample("a", "red", "one"))
    shard(tmp_path / "s-001.tar", sample("a", "red", "two"))

    assert open_pairs(tmp_path / pattern).rows["captions"][:] == [["one"], ["two"]]


def test_captions_and_ids_may_come_from_json(tmp_path):
    entry = {"caption": "from json", "image_id": 12, "group": "g", "split": "test", "width": 3}
    members = [("a.png", encoded(picture())), ("a.json", json.dumps(entry))]

    row = open_pairs(shard(tmp_path / "x.tar", members)).rows[0]

    assert (row["captions"], row["image_id"], row["split"], row["names"]) == (["from json"], 12, "test", ["from json"])


def test_pickles_are_never_opened_and_unused_members_listed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (put, (tmp_path / "sprung", "by unpickling"))

    trap = pickle.dumps(Trap())
    members = [*sample("a", "red", "one"), ("a.pkl", trap), ("a.pyd", trap), ("b.cls", "3"), (".hidden", "x")]

    table = open_pairs(shard(tmp_path / "x.tar", members))

    assert len(table) == 1
    assert not (tmp_path / "sprung").exists()
    assert sorted(table.skipped) == [
        ("x.tar", "1 members .cls: not used"),
        ("x.tar", "1 members .pkl: pickles are never opened"),
        ("x.tar", "1 members .pyd: pickles are never opened"),
        ("x.tar", "1 members that are links or hidden: not used"),
    ]


def test_samples_without_image_caption_or_valid_json_are_listed(tmp_path):
    image = encoded(picture())
    members = [("a.txt", "no image"), ("b.png", image), ("c.png", image), ("c.json", "{"), *sample("d", "red", "good")]

    table = open_pairs(shard(tmp_path / "x.tar", members), max_skipped=0.8)

    assert table.rows["captions"][:] == [["good"]]
    assert sorted(table.skipped) == [
        ("x.tar: a", "it has no image"),
        ("x.tar: b", "it has no caption"),
        ("x.tar: c", "its .json is neither a JSON object nor a list"),
    ]


def test_a_truncated_shard_is_an_error(tmp_path):
    path = shard(tmp_path / "x.tar", [("a.txt", "one"), ("a.bmp", encoded(picture("red", (64, 64)), "BMP"))])

    put(path, path.read_bytes()[:4096])

    with pytest.raises(DataError, match=r"x\.tar ends within a\.bmp"):
        open_pairs(path)


def test_a_damaged_header_is_an_error_and_not_an_early_end(tmp_path):
    path = shard(tmp_path / "x.tar", [*sample("a", "red", "one"), *sample("b", "red", "two")])
    data = bytearray(path.read_bytes())
    place = data.index(b"b.jpg")
    data[place : place + 5] = b"\xff\xfe\xfd\xfc\xfb"
    put(path, bytes(data))

    with pytest.raises(DataError, match=f"is damaged after byte {place}"):
        open_pairs(path)


def test_a_compressed_shard_is_an_error_with_a_remedy(tmp_path):
    path = shard(tmp_path / "x.tar", sample("a", "red", "one"), "w:gz")

    with pytest.raises(DataError, match="unpack it with gunzip"):
        open_pairs(path)


def test_a_shard_missing_from_a_range_is_an_error(tmp_path):
    shard(tmp_path / "s-0.tar", sample("a", "red", "one"))

    with pytest.raises(DataError, match=r"1 of 2 shards of .* are missing, the first .*s-1\.tar"):
        open_pairs(tmp_path / "s-{0..1}.tar")


def test_shards_of_one_name_in_several_folders(tmp_path):
    for folder, colour in (("one", "red"), ("two", "blue"), ("val", "green")):
        (tmp_path / folder).mkdir()
        shard(tmp_path / folder / "000.tar", sample("a", colour, folder))

    table = open_pairs(tmp_path)

    assert table.rows["captions"][:] == [["one"], ["two"], ["val"]]
    assert table.rows["split"][:] == ["train", "train", "val"]
    assert len(set(table.image_ids.tolist())) == 3


def test_lines_of_a_text_are_captions_of_one_image(tmp_path):
    members = [("s0.webp", encoded(picture(), "WEBP")), ("s0.txt", "one\ntwo\n\nthree\r\n")]
    source = shard(tmp_path / "0.tar", members)

    assert open_pairs(source).rows["captions"][:] == [["one", "two", "three"]]
    assert open_pairs(source, caption_lines="one").rows["captions"][:] == [["one\ntwo\n\nthree"]]


@pytest.mark.parametrize("ending", ["txt", "caption", "text", "alt.txt", "ALT.TXT"])
def test_members_that_hold_captions(tmp_path, ending):
    source = shard(tmp_path / "x.tar", [("a.jpg", encoded(picture(), "JPEG")), (f"a.{ending}", "one")])

    assert open_pairs(source).rows["captions"][:] == [["one"]]


def test_the_member_or_field_of_captions_can_be_named(tmp_path):
    entry = json.dumps({"caption": "field", "recaption": "better"})
    members = [*sample("a", "red", "plain"), ("a.alt.txt", "other"), ("a.vlm", "named"), ("a.json", entry)]
    source = shard(tmp_path / "x.tar", members)

    names = ("vlm", ".alt.txt", "recaption")
    found = [open_pairs(source, caption_column=name).rows["captions"][0] for name in names]

    assert found == [["named"], ["other"], ["better"]]
    plain = open_pairs(source)
    assert plain.rows["captions"][:] == [["plain"]]
    assert ("x.tar", "1 members .alt.txt: not used beside other captions (caption_column)") in plain.skipped
    assert ("x.tar", "1 members .vlm: not used") in plain.skipped


@pytest.mark.parametrize("entry", [["one", "two"], [{"caption": "one", "id": 3}, {"caption": "two"}]])
def test_captions_in_a_list_of_json(tmp_path, entry):
    source = shard(tmp_path / "x.tar", [("a.png", encoded(picture())), ("a.json", json.dumps(entry))])

    assert open_pairs(source).rows["captions"][:] == [["one", "two"]]


def test_names_with_dots(tmp_path):
    source = shard(tmp_path / "x.tar", [*sample("photo v1.3", "red", "one"), *sample("photo v1.4", "blue", "two")])

    with pytest.raises(DataError, match=r"2 of 2 rows .* the first: x\.tar: photo v1\.3\.jpg: .*give key_split 'last'"):
        open_pairs(source)
    assert open_pairs(source, key_split="last").rows["captions"][:] == [["one"], ["two"]]


def test_some_names_with_dots_count_against_the_limit(tmp_path):
    plain = [member for number in range(8) for member in sample(str(number), "red", "one")]
    source = shard(tmp_path / "x.tar", [*plain, *sample("a.1", "red", "two"), ("0.mask.png", encoded(picture()))])

    with pytest.raises(DataError, match=r"1 of 9 rows .* over max_skipped"):
        open_pairs(source)
    table = open_pairs(source, max_skipped=0.2)
    assert len(table) == 8
    assert ("x.tar", "1 members that are further images of a sample: not used") in table.skipped
    assert ("x.tar", "1 members *.txt with more dots: not used") in table.skipped
