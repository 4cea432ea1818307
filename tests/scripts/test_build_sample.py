"""The steps that need no network: pins, drawing (where resvg is installed), the table, and the check."""

import io
import json

import build_sample
import pyarrow.parquet as pq
import pytest
from emoji_sample.concepts import Concept
from emoji_sample.sources import SampleError
from emoji_sample.table import MIN_DRAWINGS, SCHEMA, drawn_often, rows, write
from PIL import Image

VENDORS = ["noto", "twemoji", "emojione", "fluent-emoji", "fluent-emoji-flat", "noto-v1"]
CONCEPT = Concept("A1", "A1", "animals", "mammal", ("cat", "kitty"), ("animal", "pet"), frozenset())
DRAWINGS = {"A1": {vendor: vendor.encode() for vendor in VENDORS}}


def test_rarely_drawn_concepts_are_left_out():
    often = {str(number): "icon" for number in range(MIN_DRAWINGS)}
    rarely = {str(number): "icon" for number in range(MIN_DRAWINGS - 1)}
    assert list(drawn_often({"B": often, "C": rarely, "A": often})) == ["A", "B"]


def test_rows():
    made = list(rows({"A1": CONCEPT}, DRAWINGS))
    assert [row["vendor"] for row in made] == sorted(VENDORS)
    assert [row["image_id"] for row in made] == list(range(6))
    assert [row["caption_ids"] for row in made] == [[1_000_000 + number] for number in range(6)]
    assert {row["captions"][0] for row in made} == {"cat", "kitty", "animal, pet"}
    assert made[0]["image"] == {"bytes": b"emojione", "path": "emojione/A1.webp"}
    assert made[0]["licence"] == "CC-BY-4.0"
    assert all(row["names"] == ["cat", "kitty", "animal, pet"] for row in made)
    assert all(row.keys() == set(SCHEMA.names) for row in made)


def test_the_same_rows_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(rows({"A1": CONCEPT}, DRAWINGS), {"pyarrow": "1", "pillow": "2"}, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    table = pq.read_table(tmp_path / "a")
    assert table.to_pylist() == list(rows({"A1": CONCEPT}, DRAWINGS))
    assert json.loads(table.schema.metadata[b"truepair.sample.tools"]) == {"pillow": "2", "pyarrow": "1"}


def test_installed_tools(monkeypatch):
    monkeypatch.setattr(build_sample, "version", {"pillow": "13.0.0", "resvg-py": "0.5.0"}.__getitem__)
    assert build_sample.installed_tools("# pins\npillow==13.0.0\nresvg-py==0.5.0\n") == {
        "pillow": "13.0.0",
        "resvg-py": "0.5.0",
    }
    with pytest.raises(SampleError, match=r"pillow 12\.0\.0 is needed, 13\.0\.0 is installed"):
        build_sample.installed_tools("pillow==12.0.0\n")


def test_a_tool_that_is_not_installed():
    with pytest.raises(SampleError, match="no-such-tool 1 is needed, none is installed"):
        build_sample.installed_tools("no-such-tool==1\n")


def test_check(tmp_path):
    built, committed, readme = (tmp_path / name for name in ("built", "emoji.parquet", "README.md"))
    built.write_bytes(b"sample")
    committed.write_bytes(b"sample")
    readme.write_text(f"sha256 {build_sample.sha256(built)}")
    build_sample.check(built, committed)
    readme.write_text("sha256 of an older file")
    with pytest.raises(SampleError, match=r"does not state the sha256 of emoji\.parquet"):
        build_sample.check(built, committed)
    committed.write_bytes(b"other")
    with pytest.raises(SampleError, match="differs from a fresh build"):
        build_sample.check(built, committed)


def test_errors_are_one_line(monkeypatch, capsys):
    def fail(_):
        raise SampleError("pillow is missing")

    monkeypatch.setattr(build_sample, "installed_tools", fail)
    monkeypatch.setattr("sys.argv", ["build_sample.py", "--check"])
    assert build_sample.main() == 1
    assert capsys.readouterr().err == "error: pillow is missing\n"


def draw(body, **sizes):
    pytest.importorskip("resvg_py", reason="resvg-py draws the sample: pip install -r scripts/sample-requirements.txt")
    from emoji_sample.drawing import draw

    return draw({"prefix": "test", "width": 16, "height": 16, "icons": {"icon": {"body": body, **sizes}}}, "icon")


def test_a_wide_drawing_is_centred_on_white():
    content = draw('<path fill="#f00" d="M1 0h14v8H1z"/>', height=8)
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.mode, picture.size) == ("WEBP", "RGB", (72, 72))
    assert picture.getpixel((36, 5)) == picture.getpixel((36, 66)) == (255, 255, 255)
    assert picture.getpixel((6, 36)) == picture.getpixel((65, 36)) == (255, 0, 0)


@pytest.mark.parametrize("body", ["", '<path fill="#fff" d="M0 0h16v16H0z"/>'])
def test_a_blank_drawing_is_refused(body):
    with pytest.raises(SampleError, match="icon test:icon is blank"):
        draw(body)


def test_a_broken_drawing_is_refused():
    with pytest.raises(SampleError, match="icon test:icon cannot be drawn"):
        draw("<path")
