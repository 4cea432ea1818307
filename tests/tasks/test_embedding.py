"""Vectors on disk: what stands beside them, what is left out, and a command that is killed."""

import errno
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.models.folders import save_albef, save_clip
from truepair import Retriever
from truepair.cli.main import main
from truepair.data.source import SourceConfig
from truepair.errors import ConfigError, DataError
from truepair.tasks.embedding import EmbedConfig, embed
from truepair.tasks.vectors import COLUMNS, StoredVectors, VectorFiles


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@contextmanager
def silent(label: str) -> Any:
    yield lambda done, total: None


def run(model: Path, source: Path, output: Path, **fields: Any) -> list[str]:
    lines: list[str] = []
    settings: dict[str, Any] = {"workers": 0, "save_every": 5, "batch_size": 2, **fields}
    embed(
        model, EmbedConfig(data=SourceConfig(source=str(source)), output=str(output), **settings), lines.append, silent
    )
    return lines


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """13 pictures with two captions each, of which one is common to all; the last rows are unreadable pictures."""
    (tmp_path / "pictures").mkdir()
    lines = ["image\tcaption"]
    for number in range(13):
        name = f"pictures/{number}.png"
        Image.new("RGB", (20, 16), (number * 19, 90, 255 - number * 19)).save(tmp_path / name)
        lines += [f"{name}\ta square", f"{name}\tpicture {number}"]
    (tmp_path / "pictures" / "broken.png").write_text("no picture")
    lines += ["pictures/broken.png\ta broken one", "pictures/gone.png\ta square"]
    source = tmp_path / "pairs.tsv"
    source.write_text("\n".join(lines))
    return source


def test_pictures_without_captions_have_vectors(model: Path, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "broken.png").unlink()
    output = tmp_path / "out.parquet"
    words = ["embed", str(model), str(tmp_path / "pictures"), "--output", str(output), "--workers", "0"]
    with pytest.raises(SystemExit):
        main(words)
    main([*words, "--what", "images"])
    assert pq.read_table(output)["captions"].to_pylist() == [[]] * 13


def test_every_picture_and_caption_has_its_vector(model: Path, pairs: Path, tmp_path: Path) -> None:
    lines = run(model, pairs, tmp_path / "v.parquet", faiss=str(tmp_path / "v.faiss"))
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.schema.names == [*COLUMNS.names, "vector"]
    rows = table.to_pylist()
    pictures = [row for row in rows if row["kind"] == "image"]
    captions = [row for row in rows if row["kind"] == "caption"]
    assert rows == pictures + captions and len(pictures) == 13 and len(captions) == 28
    assert pictures[4]["captions"] == ["a square", "picture 4"] and pictures[4]["caption_id"] is None
    assert pictures[4]["row"] == 8 and pictures[4]["path"] == str(tmp_path / "pictures" / "4.png")
    assert [row["captions"] for row in captions[8:10]] == [["a square"], ["picture 4"]]
    assert {row["image_id"] for row in captions[8:10]} == {pictures[4]["image_id"]}
    assert captions[-1]["captions"] == ["a square"] and captions[-1]["path"].endswith("gone.png")
    retriever = Retriever.load(model)
    expected = retriever.encode_images([row["path"] for row in pictures])
    np.testing.assert_allclose([row["vector"] for row in pictures], expected, rtol=0, atol=1e-6)
    expected = retriever.encode_texts([row["captions"][0] for row in captions])
    np.testing.assert_allclose([row["vector"] for row in captions], expected, rtol=0, atol=1e-6)
    index = faiss.read_index(str(tmp_path / "v.faiss"))
    np.testing.assert_array_equal(index.reconstruct_n(0, len(rows)), [row["vector"] for row in rows])
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] in ".v") == [
        "v.faiss", "v.parquet", "v.skipped.jsonl",
    ]  # fmt: skip
    said = "\n".join(lines)
    assert "broken.png is not an image" in said and "28 rows are 15 pictures; each counts once" in said
    assert "left out: 2 of 15 pictures of pairs (train) cannot be read; listed in " in said
    assert "vectors of 13 pictures and 28 captions, 8 numbers each" in said
    listed = [json.loads(line) for line in (tmp_path / "v.skipped.jsonl").read_text().splitlines()]
    assert [entry["row"] for entry in listed if entry["what"] == "left out"] == [26, 27]


def test_one_picture_in_several_rows_is_read_once(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    from truepair.data import transforms

    def load(stored: Any, **options: Any) -> Any:
        read.append(stored["path"])
        return original(stored, **options)

    original = transforms.load_image
    monkeypatch.setattr(transforms, "load_image", load)
    run(model, pairs, tmp_path / "v.parquet", what="images")
    assert len(read) == len(set(read)) == 15


def test_copies_and_links_of_a_picture_have_one_vector_and_are_found_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        Image.new("RGB", (20, 16), (number * 90, 90, 255 - number * 90)).save(tmp_path / f"{number}.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "1.png").read_bytes())
    (tmp_path / "link.png").symlink_to(tmp_path / "1.png")
    names = ["0.png", "1.png", "copy.png", "link.png", "2.png", "./1.png"]
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "".join(f"{name},says {name}\n" for name in names))
    command = ["embed", str(model), str(tmp_path / "pairs.csv"), "--workers", "0"]
    main([*command, "--output", str(tmp_path / "v.parquet")])
    said = " ".join(capsys.readouterr().err.split())
    assert "1 picture stands under several ids or in several files" in said
    assert "6 rows are 3 pictures; each counts once, with all its captions" in said
    rows = pq.read_table(tmp_path / "v.parquet").to_pylist()
    assert [row["captions"] for row in rows[:3]] == [
        ["says 0.png"],
        ["says 1.png", "says copy.png", "says link.png", "says ./1.png"],
        ["says 2.png"],
    ]
    owners = {row["captions"][0]: row["image_id"] for row in rows[3:]}
    assert len(owners) == 6 and {owners[f"says {name}"] for name in ("copy.png", "link.png")} == {rows[1]["image_id"]}
    main(["search", str(model), str(tmp_path / "v.parquet"), str(tmp_path / "copy.png")])
    assert capsys.readouterr().out.count("says 1.png") == 1
    for identity, pictures in (("file", 4), ("id", 6)):
        output = tmp_path / f"{identity}.parquet"
        main([*command, "--output", str(output), "--identity", identity, "--what", "images"])
        assert pq.read_metadata(output).num_rows == pictures


@pytest.mark.parametrize("what", ["images", "captions", "both"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_forms_hold_the_same(model: Path, pairs: Path, tmp_path: Path, what: str, dtype: str) -> None:
    outputs = {"a.parquet": 1, "b.parquet": 3, "c.npy": 1, "d.npy": 4}
    found = []
    for name, shards in outputs.items():
        run(model, pairs, tmp_path / name, what=what, dtype=dtype, shards=shards)
        found.append(StoredVectors.open(tmp_path / name))
        assert len(list(tmp_path.glob(f"{name[0]}-0000?-of-0000{shards}{name[1:]}"))) == (shards if shards > 1 else 0)
    for stored in found:
        assert stored.columns.equals(found[0].columns) and stored.origin == found[0].origin
        assert stored.vectors.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(stored.vectors, found[0].vectors)
    assert len(found[0]) == {"images": 13, "captions": 28, "both": 41}[what]
    assert np.load(tmp_path / "c.npy").shape == (len(found[0]), 8)
    assert StoredVectors.open(tmp_path / "b-00002-of-00003.parquet").columns.equals(found[0].columns)


def test_cut_captions_are_counted(model: Path, pairs: Path, tmp_path: Path) -> None:
    with pairs.open("a") as file:
        file.write("\npictures/0.png\t" + "a " * 40)
    said = run(model, pairs, tmp_path / "v.parquet", what="captions")
    assert "cut: 1 of 16 captions have more than 12 tokens, and lose their end" in "\n".join(said)


def stopped(model: Path, pairs: Path, output: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """A call that ends in its second part of captions."""
    encode = Retriever.encode_texts
    calls = []

    def encode_once(self: Retriever, texts: Any, **options: Any) -> Any:
        calls.append(texts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, texts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Retriever, "encode_texts", encode_once)
        with pytest.raises(KeyboardInterrupt):
            run(model, pairs, output, **fields)
    assert not output.exists()


def test_a_stopped_call_goes_on(model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(model, pairs, tmp_path / "whole.parquet")
    stopped(model, pairs, tmp_path / "v.parquet", monkeypatch)
    read: list[int] = []
    image_parts = Retriever.image_parts

    def counted(self: Retriever, images: Any, **options: Any) -> Any:
        """The same, noted."""
        read.append(len(images))
        return image_parts(self, images, **options)

    monkeypatch.setattr(Retriever, "image_parts", counted)
    said = run(model, pairs, tmp_path / "v.parquet")
    assert len(read) == 1, "only the part with a picture that could not be read is made again: it may be there now"
    assert "going on with what an earlier call left: 4 parts are done" in said
    assert (tmp_path / "v.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert (tmp_path / "v.skipped.jsonl").read_bytes() == (tmp_path / "whole.skipped.jsonl").read_bytes()


Change = Callable[[Path, Path], tuple[Path, dict[str, Any]]]


def another_model(model: Path, pairs: Path) -> tuple[Path, dict[str, Any]]:
    return save_albef(pairs.parent / "albef"), {}


def another_picture(model: Path, pairs: Path) -> tuple[Path, dict[str, Any]]:
    Image.new("RGB", (21, 16), "white").save(pairs.parent / "pictures" / "2.png")
    return model, {}


def another_caption(model: Path, pairs: Path) -> tuple[Path, dict[str, Any]]:
    pairs.write_text(pairs.read_text().replace("picture 7", "picture seven"))
    return model, {}


def another_setting(model: Path, pairs: Path) -> tuple[Path, dict[str, Any]]:
    return model, {"dtype": "float16"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (another_model, "the model is another"),
        (another_picture, "the source has changed"),
        (another_caption, "the source has changed"),
        (another_setting, "dtype was float32, now it is float16"),
    ],
)
def test_what_changed_is_made_anew_or_refused(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, why: str
) -> None:
    finished, half = tmp_path / "finished.parquet", tmp_path / "half.parquet"
    run(model, pairs, finished)
    stopped(model, pairs, half, monkeypatch)
    model, fields = change(model, pairs)
    said = [line for line in run(model, pairs, half, **fields) if "an earlier call" in line]
    assert len(said) == 1 and why in said[0] and said[0].endswith("the vectors are made anew")
    before = finished.read_bytes()
    with pytest.raises(ConfigError, match=rf"finished.parquet is there, but {why}.*or --overwrite true to replace it"):
        run(model, pairs, finished, **fields)
    assert finished.read_bytes() == before
    run(model, pairs, finished, overwrite=True, **fields)
    assert finished.read_bytes() == half.read_bytes() != before


def test_finished_vectors_are_left_as_they_are(model: Path, pairs: Path, tmp_path: Path) -> None:
    run(model, pairs, tmp_path / "v.parquet", shards=2)
    before = (tmp_path / "v-00000-of-00002.parquet").stat().st_mtime_ns
    said = run(model, pairs, tmp_path / "v.parquet", shards=2, faiss=str(tmp_path / "late.faiss"))
    assert "holds these vectors already; nothing is left to do" in said[-2]
    assert (tmp_path / "v-00000-of-00002.parquet").stat().st_mtime_ns == before
    assert faiss.read_index(str(tmp_path / "late.faiss")).ntotal == 41
    with pytest.raises(ConfigError, match="shards was 2, now it is 1"):
        run(model, pairs, tmp_path / "v.parquet")
    run(model, pairs, tmp_path / "v.parquet", overwrite=True)
    assert [path.name for path in tmp_path.glob("v*.parquet")] == ["v.parquet"]


@pytest.mark.parametrize(("name", "shards"), [("v.parquet", 1), ("v.parquet", 3), ("v.npy", 2)])
def test_a_former_set_stays_until_the_new_one_is_whole(
    model: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    shards: int,
) -> None:
    output = tmp_path / "out" / name
    run(model, pairs, output, shards=shards)
    before = {path.name: path.read_bytes() for path in VectorFiles(output, shards).all_paths}
    write, written = pq.write_table if name == "v.npy" else pq.ParquetWriter.write_table, list[int]()

    def full_at_last(*words: Any, **fields: Any) -> None:
        """A disk that fills up with the last file."""
        written.append(1)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*words, **fields)

    monkeypatch.setattr(pq if name == "v.npy" else pq.ParquetWriter, "write_table", full_at_last)
    call = ["embed", str(model), str(pairs), "--output", str(output), "--shards", "2", "--dtype", "float16"]
    call += ["--overwrite", "true", "--workers", "0"]
    with pytest.raises(SystemExit):
        main(call)
    assert f"could not write {output.parent}" in capsys.readouterr().err
    assert all((output.parent / name).read_bytes() == content for name, content in before.items())
    assert len(StoredVectors.open(output)) == 41
    monkeypatch.undo()
    main(call)
    assert StoredVectors.open(output).origin.dtype == "float16" and len(StoredVectors.open(output)) == 41
    assert len([path for path in output.parent.glob("v-*") if path.suffix == output.suffix]) == 2
    assert not list(output.parent.glob(".*"))


def test_pictures_inside_the_source_are_found_again(model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (20, 16), "red").save(picture)
    rows = {"image": [{"bytes": picture.read_bytes(), "path": "red.png"}], "caption": ["a red square"]}
    pq.write_table(pa.table(rows), tmp_path / "pairs.parquet")
    run(model, tmp_path / "pairs.parquet", tmp_path / "v.parquet")
    stored = StoredVectors.open(tmp_path / "v.parquet")
    assert stored.about(0)["path"] is None
    assert stored.picture(0).getpixel((3, 3)) == (255, 0, 0)


def test_mistakes_are_named(model: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"v.txt ends in neither .parquet nor .npy"):
        run(model, pairs, tmp_path / "v.txt")
    with pytest.raises(ConfigError, match="shards is 0; give a number from 1 to 99999"):
        run(model, pairs, tmp_path / "v.parquet", shards=0)
    for picture in (tmp_path / "pictures").iterdir():
        picture.write_text(f"no picture {picture.name}")
    with pytest.raises(
        DataError, match=r"none of the first 5 pictures can be read; the first: image .*0.png is not an"
    ):
        run(model, pairs, tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"there is no .*v.parquet, whole or in shards; make it with 'truepair embed'"):
        StoredVectors.open(tmp_path / "v.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"other.parquet is no file of vectors"):
        StoredVectors.open(tmp_path / "other.parquet")


def test_a_missing_shard_is_named(model: Path, pairs: Path, tmp_path: Path) -> None:
    run(model, pairs, tmp_path / "v.npy", shards=3)
    (tmp_path / "v-00001-of-00003.npy").unlink()
    with pytest.raises(DataError, match=r"v-00001-of-00003.npy is missing; run 'truepair embed' again"):
        StoredVectors.open(tmp_path / "v.npy")
    run(model, pairs, tmp_path / "v.npy", shards=3)
    assert len(StoredVectors.open(tmp_path / "v.npy")) == 41


def test_the_killed_command_ends_as_the_unbroken_one(model: Path, squares: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (squares / "pairs.jsonl").read_text().splitlines()]
    source = tmp_path / "pairs.jsonl"
    for row in rows:
        row["captions"] = [f"{row['captions'][0]} {number}" for number in range(20)]
        row["image"] = str(squares / row["image"])
    source.write_text("\n".join(map(json.dumps, rows)))
    call = [sys.executable, "-c", "from truepair.cli.main import main; main()", "embed", str(model), str(source)]
    call += ["--data.allow_outside_root", "true", "--save_every", "2", "--batch_size", "2", "--workers", "0"]

    def begin(output: Path) -> subprocess.Popen[str]:
        return subprocess.Popen([*call, "--output", str(output)], stderr=subprocess.PIPE, text=True)

    killed = begin(tmp_path / "killed.parquet")
    parts = tmp_path / ".killed.parquet.parts"
    while killed.poll() is None and len(list(parts.glob("*.npy"))) < 3:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed.parquet").exists()
    left = len(list(parts.glob("*.npy")))
    assert 3 <= left < 24 + 480  # parts of pictures and of captions
    for name in ("killed.parquet", "whole.parquet"):
        done = begin(tmp_path / name)
        said = done.communicate()[1]
        assert done.returncode == 0, said
        assert (f"an earlier call left: {left:,} parts are done" in said) == (name == "killed.parquet")
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not parts.exists()
