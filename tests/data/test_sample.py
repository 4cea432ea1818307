"""The committed sample is what its README says."""

import hashlib
import io
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "src" / "truepair" / "data" / "sample"
FILE = FOLDER / "emoji.parquet"
LICENCES = {
    "emojione": "CC-BY-4.0",
    "fluent-emoji": "MIT",
    "fluent-emoji-flat": "MIT",
    "fxemoji": "Apache-2.0",
    "noto": "Apache-2.0",
    "noto-v1": "Apache-2.0",
    "twemoji": "CC-BY-4.0",
}


@pytest.fixture(scope="module")
def rows():
    return pq.read_table(FILE).to_pylist()


@pytest.fixture(scope="module")
def concepts(rows):
    by_group = defaultdict(list)
    for row in rows:
        by_group[row["group"]].append(row)
    return by_group


def test_size_and_digest():
    content = FILE.read_bytes()
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(content) <= 12_000_000
    assert hashlib.sha256(content).hexdigest() in readme
    assert f"{len(content):,} bytes" in readme


def test_counts(rows, concepts):
    assert len(rows) == 6967
    assert Counter(len(drawings) for drawings in concepts.values()) == {6: 593, 7: 487}
    assert Counter(row["split"] for row in rows) == {"train": 5627, "test": 1080, "val": 260}
    shared = defaultdict(set)
    for row in rows:
        shared[row["captions"][0].lower()].add(row["group"])
    assert (len(shared), sum(len(groups) > 1 for groups in shared.values())) == (2999, 49)


def test_one_drawing_of_each_concept_is_held_out(concepts):
    for drawings in concepts.values():
        splits = Counter(row["split"] for row in drawings)
        assert splits["test"] == 1
        assert splits["val"] <= 1
        assert len({row["vendor"] for row in drawings}) == len(drawings)


def test_what_a_concept_states_is_the_same_in_all_its_rows(concepts):
    for drawings in concepts.values():
        for column in ("family", "subcategory", "category", "names", "split_concept"):
            assert all(row[column] == drawings[0][column] for row in drawings)
    split = Counter(drawings[0]["split_concept"] for drawings in concepts.values())
    assert split == {"train": 862, "val": 93, "test": 125}


def test_captions(rows):
    for row in rows:
        (caption,) = row["captions"]
        assert caption in row["names"]
        assert caption == caption.strip()
        assert sum(character.isalpha() for character in caption) > 1


def test_ids_and_order(rows):
    assert [row["image_id"] for row in rows] == list(range(len(rows)))
    assert [row["caption_ids"] for row in rows] == [[1_000_000 + number] for number in range(len(rows))]
    keys = [(row["group"], row["vendor"]) for row in rows]
    assert keys == sorted(set(keys))


def test_licences(rows):
    # Sets under share-alike licences (openmoji, emojione-v1) must never come in.
    assert {(row["vendor"], row["licence"]) for row in rows} == set(LICENCES.items())
    notice = (FOLDER.parents[3] / "NOTICE").read_text(encoding="utf-8")
    texts = (FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    for vendor in LICENCES:
        assert f"@iconify-json/{vendor} " in notice
        assert f"**{vendor}**" in texts


def test_pictures(rows):
    for row in rows:
        assert row["image"]["path"] == f"{row['vendor']}/{row['group']}.webp"
        picture = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (picture.format, picture.mode, picture.size) == ("WEBP", "RGB", (72, 72))
        assert np.asarray(picture).std() > 2


def test_equal_pictures_are_the_two_known_slips_of_a_vendor(rows):
    # Equal pictures under two concepts make the truth wrong: see the README.
    groups = defaultdict(set)
    for row in rows:
        groups[row["image"]["bytes"]].add(row["group"])
    repeated = [sorted(group) for group in groups.values() if len(group) > 1]
    assert sorted(repeated) == [["1F431", "1F63A"], ["1F533", "25FC"]]


def test_provenance_and_random_access():
    file = pq.ParquetFile(FILE)
    assert file.schema_arrow.metadata[b"truepair.sample.version"] == b"1"
    assert b"@iconify-json/noto" in file.schema_arrow.metadata[b"truepair.sample.sources"]
    assert all(file.metadata.row_group(number).num_rows <= 512 for number in range(file.num_row_groups))
