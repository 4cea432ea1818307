import json
import pickle
import tarfile

import pytest

from tests.data.makers import encoded, picture, put, put_tar
from truepair.data import open_pairs
from truepair.errors import DataError


def sample(key, colour, caption):
    return [(f"{key}.jpg", encoded(picture(colour), "JPEG")), (f"{key}.txt", caption)]


def test_images_are_read_from_their_place_in_the_put_tar(tmp_path):
    put_tar(tmp_path / "s-000.tar", [*sample("00/a", "red", "one"), *sample("00/b", "blue", "two")])
    put_tar(tmp_path / "s-001.tar", sample("00/a", "green", "three"))

    table = open_pairs(tmp_path / "s-{000..001}.tar")

    assert table.rows["captions"][:] == [["one"], ["two"], ["three"]]
    assert len(set(table.image_ids.tolist())) == 3
    assert [max(range(3), key=table.image(i).getpixel((0, 0)).__getitem__) for i in range(3)] == [0, 2, 1]
    assert table.rows["image"][0]["bytes"] is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s-000.tar", "s-001.tar"]


@pytest.mark.parametrize("pattern", ["s-*.tar", "s-00[01].tar", "s-{000..001}.tar", "."])
def test_shards_are_named_by_pattern_range_or_folder(tmp_path, pattern):
    put_tar(tmp_path / "s-000.tar", sample("a", "red", "one"))
    put_tar(tmp_path / "s-001.tar", sample("a", "red", "two"))

    assert open_pairs(tmp_path / pattern).rows["captions"][:] == [["one"], ["two"]]


def test_captions_and_ids_may_come_from_json(tmp_path):
    entry = {"caption": "from json", "image_id": 12, "group": "g", "split": "test", "width": 3}
    members = [("a.png", encoded(picture())), ("a.json", json.dumps(entry))]

    row = open_pairs(put_tar(tmp_path / "x.tar", members)).rows[0]

    assert (row["captions"], row["image_id"], row["split"], row["names"]) == (["from json"], 12, "test", ["from json"])


def test_pickles_are_never_opened_and_unused_members_listed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (put, (tmp_path / "sprung", "by unpickling"))

    trap = pickle.dumps(Trap())
    members = [*sample("a", "red", "one"), ("a.pkl", trap), ("a.pyd", trap), ("b.cls", "3"), (".hidden", "x")]

    table = open_pairs(put_tar(tmp_path / "x.tar", members))

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

    table = open_pairs(put_tar(tmp_path / "x.tar", members), max_skipped=0.8)

    assert table.rows["captions"][:] == [["good"]]
    assert sorted(table.skipped) == [
        ("x.tar: a", "it has no image"),
        ("x.tar: b", "it has no caption"),
        ("x.tar: c", "its .json is neither a JSON object nor a list"),
    ]


def test_a_truncated_shard_is_an_error(tmp_path):
    path = put_tar(tmp_path / "x.tar", [("a.txt", "one"), ("a.bmp", encoded(picture("red", (64, 64)), "BMP"))])

    put(path, path.read_bytes()[:4096])

    with pytest.raises(DataError, match=r"x\.tar ends within a\.bmp"):
        open_pairs(path)


def test_a_shard_cut_off_between_two_members_is_told(tmp_path):
    path = put_tar(tmp_path / "x.tar", [*sample("a", "red", "one"), *sample("b", "red", "two")])
    assert not open_pairs(path).skipped
    with tarfile.open(path) as shard:
        second = shard.getmember("b.jpg").offset

    put(path, path.read_bytes()[:second])

    table = open_pairs(path)
    told = "it does not end as a tar does that was written in full; if it was cut off, fetch it again"
    assert list(table.captions()) == ["one"] and table.skipped == [("x.tar", told)]


def test_a_damaged_header_is_an_error_and_not_an_early_end(tmp_path):
    path = put_tar(tmp_path / "x.tar", [*sample("a", "red", "one"), *sample("b", "red", "two")])
    data = bytearray(path.read_bytes())
    place = data.index(b"b.jpg")
    data[place : place + 5] = b"\xff\xfe\xfd\xfc\xfb"
    put(path, bytes(data))

    with pytest.raises(DataError, match=f"is damaged after byte {place}"):
        open_pairs(path)


def test_a_compressed_shard_is_an_error_with_a_remedy(tmp_path):
    path = put_tar(tmp_path / "x.tar", sample("a", "red", "one"), "w:gz")

    with pytest.raises(DataError, match="unpack it with gunzip"):
        open_pairs(path)


def test_a_shard_missing_from_a_range_is_an_error(tmp_path):
    put_tar(tmp_path / "s-0.tar", sample("a", "red", "one"))

    with pytest.raises(DataError, match=r"1 of 2 shards of .* are missing, the first .*s-1\.tar"):
        open_pairs(tmp_path / "s-{0..1}.tar")


def test_shards_of_one_name_in_several_folders(tmp_path):
    for folder, colour in (("one", "red"), ("two", "blue"), ("val", "green")):
        (tmp_path / folder).mkdir()
        put_tar(tmp_path / folder / "000.tar", sample("a", colour, folder))

    table = open_pairs(tmp_path)

    assert table.rows["captions"][:] == [["one"], ["two"], ["val"]]
    assert table.rows["split"][:] == ["train", "train", "val"]
    assert len(set(table.image_ids.tolist())) == 3


def test_lines_of_a_text_are_captions_of_one_image(tmp_path):
    members = [("s0.webp", encoded(picture(), "WEBP")), ("s0.txt", "one\ntwo\n\nthree\r\n")]
    source = put_tar(tmp_path / "0.tar", members)

    assert open_pairs(source).rows["captions"][:] == [["one", "two", "three"]]
    assert open_pairs(source, caption_lines="one").rows["captions"][:] == [["one\ntwo\n\nthree"]]


@pytest.mark.parametrize("ending", ["txt", "caption", "text", "alt.txt", "ALT.TXT"])
def test_members_that_hold_captions(tmp_path, ending):
    source = put_tar(tmp_path / "x.tar", [("a.jpg", encoded(picture(), "JPEG")), (f"a.{ending}", "one")])

    assert open_pairs(source).rows["captions"][:] == [["one"]]


def test_the_member_or_field_of_captions_can_be_named(tmp_path):
    entry = json.dumps({"caption": "field", "recaption": "better"})
    members = [*sample("a", "red", "plain"), ("a.alt.txt", "other"), ("a.vlm", "named"), ("a.json", entry)]
    source = put_tar(tmp_path / "x.tar", members)

    names = ("vlm", ".alt.txt", "recaption")
    found = [open_pairs(source, caption_column=name).rows["captions"][0] for name in names]

    assert found == [["named"], ["other"], ["better"]]
    plain = open_pairs(source)
    assert plain.rows["captions"][:] == [["plain"]]
    assert ("x.tar", "1 members .alt.txt: not used beside other captions (caption_column)") in plain.skipped
    assert ("x.tar", "1 members .vlm: not used") in plain.skipped


@pytest.mark.parametrize(
    "entry", [{"Captions": ["one", "two"]}, ["one", "two"], [{"caption": "one", "id": 3}, {"caption": "two"}]]
)
def test_captions_in_a_list_of_json(tmp_path, entry):
    source = put_tar(tmp_path / "x.tar", [("a.png", encoded(picture())), ("a.json", json.dumps(entry))])

    assert open_pairs(source).rows["captions"][:] == [["one", "two"]]


def test_names_with_dots(tmp_path):
    source = put_tar(tmp_path / "x.tar", [*sample("photo v1.3", "red", "one"), *sample("photo v1.4", "blue", "two")])

    with pytest.raises(DataError, match=r"2 of 2 rows .* the first: x\.tar: photo v1\.3\.jpg: .*give key_split 'last'"):
        open_pairs(source)
    assert open_pairs(source, key_split="last").rows["captions"][:] == [["one"], ["two"]]


def test_some_names_with_dots_count_against_the_limit(tmp_path):
    plain = [member for number in range(8) for member in sample(str(number), "red", "one")]
    source = put_tar(
        tmp_path / "x.tar",
        [*plain, *sample("a.1", "red", "two"), *sample("b.1", "red", "two"), ("0.mask.png", encoded(picture()))],
    )

    with pytest.raises(DataError, match=r"2 of 10 rows .* over max_skipped"):
        open_pairs(source)
    table = open_pairs(source, max_skipped=0.2)
    assert len(table) == 8
    assert ("x.tar", "1 members that are further images of a sample: not used") in table.skipped
    assert ("x.tar", "2 members *.txt with more dots: not used") in table.skipped


class TestSplits:
    """Folders and names that speak of splits."""

    @pytest.mark.parametrize("place", ["test/0.tar", "Test/0.TAR", "flickr-test-000.tar", "val2014/../test/0.tar"])
    def test_an_evaluation_set_as_it_is_shipped(self, tmp_path, place):
        image = encoded(picture(), "WEBP")
        members = [
            (f"s{number}.{end}", data)
            for number in range(3)
            for end, data in (("webp", image), ("txt", "a\nb\r\nc\n\nd\ne"))
        ]
        put_tar((tmp_path / "root" / place).resolve(), members)
        put(tmp_path / "root" / "test" / "nshards.txt", "1")
        put(tmp_path / "root" / "README.md", "---\nlicense: mit\n---\n")  # as on the hub

        table = open_pairs(tmp_path / "root")

        assert table.splits == {"test": 3}
        assert table.rows["captions"][:] == [["a", "b", "c", "d", "e"]] * 3
        assert open_pairs(tmp_path / "root", split="test").caption_count == 15

    def test_shards_of_several_splits_in_one_folder(self, tmp_path):
        for number, split in enumerate(("train", "train", "val", "test")):
            put_tar(tmp_path / f"cc-{split}-{number:03}.tar", sample("a", "red", split))

        assert open_pairs(tmp_path).splits == {"test": 1, "train": 2, "val": 1}
        assert open_pairs(tmp_path / "cc-train-*.tar").splits == {"train": 2}

    def test_folders_in_a_tar_speak_of_splits_as_on_disk(self, tmp_path):
        inner = ("./train/a", "./validation/more/a", "./test_images/a", "./a")
        source = put_tar(tmp_path / "all.tar", [one for key in inner for one in sample(key, "red", key)])

        table = open_pairs(source)

        assert table.rows["split"][:] == ["train", "val", "test", "train"]
        assert len(set(table.image_ids.tolist())) == 4
        assert table.split_origins == {"named", "none"}


def test_names_in_capitals_and_images_named_whole(tmp_path):
    image = encoded(picture(), "JPEG")
    members = [
        ("A.TXT", "one"),
        ("A.JPG", image),
        ("b.jpg", image),
        ("b.jpg.txt", "two"),
        ("v1.3/c.jpeg", image),
        ("v1.3/c.txt", "x"),
    ]

    assert open_pairs(put_tar(tmp_path / "x.tar", members)).rows["captions"][:] == [["one"], ["two"], ["x"]]


@pytest.mark.parametrize("ending", ["txt", "caption", "text", "alt.txt", "json"])
def test_names_with_dots_and_each_kind_of_caption(tmp_path, ending):
    text = json.dumps(["one"]) if ending == "json" else "one"
    members = [
        (f"photo v1.{n}.{end}", data) for n in range(3) for end, data in (("jpg", encoded(picture())), (ending, text))
    ]

    table = open_pairs(put_tar(tmp_path / "x.tar", members), key_split="last")

    assert table.rows["captions"][:] == [["one"]] * 3 and table.skipped == []


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("a.cap", "x")], "it has no caption; if one is in .cap, name it with caption_column"),
        ([("a.en.txt", "x"), ("a.de.txt", "x")], "it has no caption; if one is in .de.txt, .en.txt, name it with"),
        (
            [("a.json", '{"llava": "x"}')],
            "it has no caption; if one is in the field llava, name it with caption_column",
        ),
        ([("a.txt", " \n")], "it has no caption: its .txt is empty"),
        ([], "it has no caption"),
        ([("a.json", "7")], "its .json is neither a JSON object nor a list"),
    ],
)
def test_why_a_sample_has_no_caption(tmp_path, members, why):
    source = put_tar(tmp_path / "x.tar", [("a.jpg", encoded(picture())), *members, *sample("b", "red", "two")])

    table = open_pairs(source, max_skipped=0.5)

    assert len(table) == 1
    assert [reason.startswith(why) for where, reason in table.skipped if where == "x.tar: a"] == [True]


def test_an_image_of_a_kind_that_is_not_read(tmp_path):
    source = put_tar(tmp_path / "x.tar", [("a.heic", b"x"), ("a.txt", "one"), *sample("b", "red", "two")])

    with pytest.raises(
        DataError, match=r"1 of 2 rows .* x\.tar: a: its image is \.heic, a kind that is not read; save it"
    ):
        open_pairs(source, max_skipped=0)
    assert open_pairs(source).skipped[0][0] == "x.tar: a"


def test_further_images_of_a_sample_are_listed(tmp_path):
    source = put_tar(tmp_path / "x.tar", [*sample("a", "red", "one"), ("a.png", encoded(picture("blue")))])

    table = open_pairs(source)

    assert table.image(0).getpixel((0, 0))[0] > 200
    assert table.skipped == [("x.tar", "1 members that are further images of a sample: not used")]


def test_the_commonest_reason_is_told(tmp_path):
    lone = [(f"{number}.jpg", encoded(picture())) for number in range(3)]
    source = put_tar(tmp_path / "x.tar", [("z.txt", "no image"), *sample("photo v1.3", "red", "one"), *lone])

    with pytest.raises(DataError, match=r"5 of 5 rows .* x\.tar: 0: it has no caption \(the reason of 3 of them\)"):
        open_pairs(source)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_texts_in_other_encodings(tmp_path, encoding):
    members = [("a.jpg", encoded(picture())), ("a.txt", "one, two\r\nthree".encode(encoding))]

    assert open_pairs(put_tar(tmp_path / "x.tar", members)).rows["captions"][:] == [["one, two", "three"]]
