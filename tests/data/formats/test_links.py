"""Links in a source are followed, wherever they lead, in every format; paths that a source states may not leave it."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.makers import encoded, picture, put
from truepair.data import open_pairs
from truepair.data.tasks.base import TaskImagePaths
from truepair.errors import DataError

NAMES = ("linked.png", "folder/inner.png")  # a link to a file, and a file in a link to a folder


def rows(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"image": name, "caption": f"a picture called {name}"} for name in names]


def jsonl(root: Path, names: tuple[str, ...]) -> Path:
    put(root / "list.jsonl", "\n".join(map(json.dumps, rows(names))))
    return root / "list.jsonl"


def albef(root: Path, names: tuple[str, ...]) -> Path:
    put(root / "list.json", json.dumps(rows(names)))
    return root / "list.json"


def karpathy(root: Path, names: tuple[str, ...]) -> Path:
    images = [{"filename": name, "split": "train", "sentences": [{"raw": f"a {name}"}]} for name in names]
    put(root / "karpathy.json", json.dumps({"images": images}))
    return root / "karpathy.json"


def coco(root: Path, names: tuple[str, ...]) -> Path:
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    captions = [{"id": number, "image_id": number, "caption": f"a {name}"} for number, name in enumerate(names)]
    put(root / "coco.json", json.dumps({"images": images, "annotations": captions}))
    return root / "coco.json"


def delimited(root: Path, names: tuple[str, ...]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["image", "caption"])
    writer.writeheader()
    writer.writerows(rows(names))
    put(root / "list.csv", text.getvalue())
    return root / "list.csv"


def parquet(root: Path, names: tuple[str, ...]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows(names)), root / "list.parquet")
    return root / "list.parquet"


def metadata(root: Path, names: tuple[str, ...]) -> Path:
    lines = [{"file_name": name, "text": f"a {name}"} for name in names]
    put(root / "metadata.jsonl", "\n".join(map(json.dumps, lines)))
    return root


def beside(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        put((root / name).with_suffix(".txt"), f"a {name}")
    return root


LISTS = [jsonl, albef, karpathy, coco, delimited, parquet]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder whose two pictures lie outside it."""
    root = tmp_path / "root"
    root.mkdir()
    put(tmp_path / "elsewhere" / "one.png", picture("red"))
    put(tmp_path / "elsewhere" / "inner.png", picture("blue"))
    (root / "linked.png").symlink_to(tmp_path / "elsewhere" / "one.png")
    (root / "folder").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    return root


@pytest.mark.parametrize("write", [*LISTS, metadata, beside], ids=lambda write: write.__name__)
def test_links_are_followed_wherever_they_lead(root: Path, write: Callable[[Path, Any], Path]) -> None:
    table = open_pairs(write(root, NAMES), max_skipped=0.5)  # one is there twice, once without words

    colours = {name: table.image(row).getpixel((0, 0)) for row, name in enumerate(_names(table))}
    assert colours == {"linked.png": (220, 30, 30), "inner.png": (30, 30, 220)}


@pytest.mark.parametrize("write", LISTS, ids=lambda write: write.__name__)
@pytest.mark.parametrize(
    "stated", ["../elsewhere/one.png", "{root}/../elsewhere/one.png", "folder/../../elsewhere/one.png"]
)
def test_paths_that_a_list_states_may_not_leave_the_root(root: Path, write: Callable[..., Path], stated: str) -> None:
    source = write(root, ("linked.png", stated.format(root=root)))

    with pytest.raises(DataError, match=r"leaves the image root .*; give image_root or strip_prefix, or set"):
        open_pairs(source)
    assert len(open_pairs(source, allow_outside_root=True)) == 2


def test_images_of_tasks_follow_the_same_rule(root: Path) -> None:
    paths = TaskImagePaths("questions.json")
    for name in NAMES:
        paths.add(root, name)
    assert [paths.table().image(row).getpixel((0, 0)) for row in (0, 1)] == [(220, 30, 30), (30, 30, 220)]
    with pytest.raises(DataError, match="leaves image_root"):
        paths.add(root, "../elsewhere/one.png")


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_shards_of_a_linked_folder_are_read(tmp_path: Path, kind: str) -> None:
    shard = tmp_path / "elsewhere" / f"a.{kind}"
    shard.parent.mkdir()
    if kind == "tar":
        with tarfile.open(shard, "w") as archive:
            for name, data in (("0.png", encoded(picture("red"))), ("0.txt", b"a red one")):
                header = tarfile.TarInfo(name)
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
    else:
        pq.write_table(pa.table({"image": [encoded(picture("red"))], "caption": ["a red one"]}), shard)
    root = tmp_path / "root"
    root.mkdir()
    (root / "more").symlink_to(shard.parent, target_is_directory=True)

    assert open_pairs(root).rows["captions"][:] == [["a red one"]]

    (root / f"lost.{kind}").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match=f"lost.{kind} is a link that leads nowhere; correct or remove it"):
        open_pairs(root)


@pytest.mark.parametrize("format", ["folder", "classes"])
def test_links_round_in_a_circle_end_and_those_that_lead_nowhere_are_listed(tmp_path: Path, format: str) -> None:
    for number in range(20):
        put(tmp_path / "cat" / f"{number}.png", picture("red"))
        put(tmp_path / "cat" / f"{number}.txt", "a cat")
    for number in range(3):
        (tmp_path / "cat" / f"up{number}").symlink_to("..", target_is_directory=True)
    (tmp_path / "cat" / "lost.png").symlink_to(tmp_path / "nothing")

    table = open_pairs(tmp_path, format=format)

    assert len(table) == 20
    assert ("cat/lost.png", "it is a link that leads nowhere") in table.skipped


def _names(table: Any) -> list[str]:
    return [Path(cell["path"]).name for cell in table.rows["image"][:]]
