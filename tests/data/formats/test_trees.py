"""Folders of many kinds: what decides, what is left aside, and what is said of those that hold no pairs."""

import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.makers import encoded, picture, put, put_tar
from truepair.data import open_pairs
from truepair.errors import DataError

IMAGE = encoded(picture("blue"), "JPEG")

URLS = [f"http://example.org/{number}.jpg" for number in range(9)]

STATUS = ["failed_to_download" if number % 3 == 0 else "success" for number in range(9)]

CAPTIONS = [f"caption {number}" for number in range(9)]

FETCHED = [number for number in range(9) if STATUS[number] == "success"]


def downloads(folder, kind, ending="jpg"):
    """What img2dataset writes of nine URLs, of which three fail, in one of its output formats."""
    keys = [f"{number:09}" for number in range(9)]
    columns = {"url": URLS, "caption": CAPTIONS, "key": keys, "status": STATUS, "width": [12] * 9}
    put(folder / "00000_stats.json", json.dumps({"count": 9, "successes": 6}))
    if kind == "parquet":
        done = [status == "success" for status in STATUS]
        columns[ending] = pa.array([IMAGE if one else None for one in done], pa.binary())
        columns["txt"] = [text if one else None for text, one in zip(CAPTIONS, done, strict=True)]
    pq.write_table(pa.table(columns), folder / "00000.parquet")
    members = [
        (f"{keys[number]}.{end}", content)
        for number in FETCHED
        for end, content in (
            (ending, IMAGE),
            ("txt", CAPTIONS[number]),
            ("json", json.dumps({"url": URLS[number], "caption": CAPTIONS[number], "key": keys[number]})),
        )
    ]
    if kind == "webdataset":
        put_tar(folder / "00000.tar", members)
    if kind == "files":
        for name, content in members:
            put(folder / "00000" / name, content)
    if kind == "tfrecord":
        put(folder / "00000.tfrecord", b"x")
    return folder


@pytest.mark.parametrize("kind", ["files", "webdataset", "parquet"])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_what_img2dataset_fetched(tmp_path, kind, ending):
    table = open_pairs(downloads(tmp_path / "cc", kind, ending))

    assert table.rows["captions"][:] == [[CAPTIONS[number]] for number in FETCHED]
    assert table.skipped == [("00000.parquet", "3 of 9 images were not downloaded (failed_to_download 3)")]
    assert table.image(5).size == (12, 8)


@pytest.mark.parametrize("kind", ["files", "webdataset", "parquet"])
def test_a_tree_of_downloads_by_split(tmp_path, kind):
    for split in ("train", "val"):
        downloads(tmp_path / split / "cc", kind)

    table = open_pairs(tmp_path)

    assert table.splits == {"train": 6, "val": 6}
    assert [where for where, _ in table.skipped] == ["train/cc/00000.parquet", "val/cc/00000.parquet"]


def test_files_of_downloads_with_captions_in_json_alone(tmp_path):
    for text in downloads(tmp_path / "cc", "files").glob("*/*.txt"):
        text.unlink()

    assert open_pairs(tmp_path / "cc").rows["captions"][0] == ["caption 1"]


@pytest.mark.parametrize("kind", ["files", "webdataset", "tfrecord", "dummy"])
def test_the_list_of_downloads_itself_is_no_data(tmp_path, kind):
    downloads(tmp_path / "cc", kind)

    with pytest.raises(
        DataError, match=r"00000\.parquet lists what img2dataset downloaded, without the images; give the"
    ):
        open_pairs(tmp_path / "cc" / "00000.parquet")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tfrecord", r"but 00000\.tfrecord; TFRecord files are not read: let img2dataset write webdataset"),
        ("dummy", r"but 00000\.parquet; it lists images that are not there: let img2dataset download them"),
    ],
)
def test_downloads_that_cannot_be_read(tmp_path, kind, message):
    with pytest.raises(DataError, match=message):
        open_pairs(downloads(tmp_path / "cc", kind))


class TestStrayFiles:
    """One file does not decide for a whole tree, and it is listed."""

    def pictures(self, folder, count=4):
        for number in range(count):
            put(folder / f"{number}.jpg", IMAGE)
            put(folder / f"{number}.txt", f"caption {number}")
        return folder

    @pytest.mark.parametrize("name", ["backup.tar", "0/old.TAR"])
    def test_a_tar_among_pictures(self, tmp_path, name):
        put_tar(self.pictures(tmp_path) / name, [("a.jpg", IMAGE)])

        table = open_pairs(tmp_path)

        assert len(table) == 4
        assert table.skipped == [(str(tmp_path), "1 files *.tar are neither images nor captions")]

    def test_a_table_among_pictures(self, tmp_path):
        pq.write_table(pa.table({"image": [IMAGE], "caption": ["x"]}), self.pictures(tmp_path) / "x.parquet")

        assert len(open_pairs(tmp_path)) == 4

    @pytest.mark.parametrize("name", ["metadata.csv", "notes/metadata.jsonl", "pairs.json", "README.md"])
    def test_a_list_or_a_card_among_pictures(self, tmp_path, name):
        put(self.pictures(tmp_path) / name, "---\n---\nimage,caption\n")

        assert len(open_pairs(tmp_path)) == 4

    def test_a_tar_beside_pictures_of_a_list(self, tmp_path):
        for name in ("images/a.jpg", "images/b.jpg"):
            put(tmp_path / name, IMAGE)
        put(tmp_path / "pairs.csv", "image,caption\na.jpg,x\n")
        put_tar(tmp_path / "code.tar", [("a.py", "x")])

        with pytest.raises(DataError, match=r"images without captions beside them, but pairs\.csv; give the path"):
            open_pairs(tmp_path)

    def test_a_picture_and_a_table_among_tars(self, tmp_path):
        for number in range(3):
            put_tar(tmp_path / f"{number}.tar", [("a.jpg", IMAGE), ("a.txt", "x")])
        self.pictures(tmp_path / "preview", 1)
        pq.write_table(pa.table({"image": [IMAGE], "caption": ["x"]}), tmp_path / "x.parquet")

        table = open_pairs(tmp_path)

        assert len(table) == 3
        assert table.skipped == [
            (str(tmp_path), f"1 files *.{kind}: not read beside the *.tar; open them by a path of their own")
            for kind in ("jpg", "parquet")
        ]

    def test_a_tar_among_tables(self, tmp_path):
        for number in range(3):
            pq.write_table(pa.table({"image": [IMAGE], "caption": ["x"]}), tmp_path / f"{number}.parquet")
        put_tar(tmp_path / "old.tar", [("a.txt", "x")])

        table = open_pairs(tmp_path)

        assert len(table) == 3
        assert table.skipped == [
            (str(tmp_path), "1 files *.tar: not read beside the *.parquet; open them by a path of their own")
        ]

    def test_a_tar_in_a_tree_of_classes(self, tmp_path):
        for name in ("bus/a.jpg", "cat/b.jpg"):
            put(tmp_path / name, IMAGE)
        put_tar(tmp_path / "old.tar", [("a.txt", "x")])

        assert open_pairs(tmp_path, labels=True).rows["captions"][:] == [["bus"], ["cat"]]


class TestWithoutPairs:
    """What is said names what is there, and what to do."""

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            (["a.jpg"], "holds images without captions beside them; give the path .*; give labels if the folders"),
            (["a.jpg", "pairs.csv"], r"images without captions beside them, but pairs\.csv; give the path of the list"),
            (
                ["in/x.jsonl", "in/y.jsonl"],
                r"no tar, .* files, but in/x\.jsonl and 1 like it; give the path of the list",
            ),
            (["photos.zip"], r"no tar, Parquet or image files, but photos\.zip; unpack it"),
            (["x.tar.gz"], r"but x\.tar\.gz; unpack it"),
            (["a.heic", "b.SVG", "a.txt"], r"holds images of a kind that is not read \(\.heic, \.svg\); save them as"),
            (["notes.md"], "holds no tar, Parquet or image files; give the path of the file with the captions$"),
        ],
    )
    def test_a_folder(self, tmp_path, files, message):
        for name in files:
            put(tmp_path / name, "x")

        with pytest.raises(DataError, match=message):
            open_pairs(tmp_path)

    def test_a_zip_of_pictures(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
            archive.writestr("a.jpg", IMAGE)
            archive.writestr("a.txt", "x")

        with pytest.raises(
            DataError, match=r"photos\.zip is an archive; unpack it, .* \(unzip photos\.zip -d photos\)$"
        ):
            open_pairs(tmp_path / "photos.zip")

    def test_a_compressed_tar(self, tmp_path):
        source = put_tar(tmp_path / "x.tar.gz", [("a.jpg", IMAGE), ("a.txt", "x")], "w:gz")

        with pytest.raises(
            DataError, match=r"x\.tar\.gz is an archive; unpack it, .* \(gunzip x\.tar\.gz, and give the tar"
        ):
            open_pairs(source)
