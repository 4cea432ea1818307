"""The sample as a Parquet file: one row per drawing."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .concepts import Concept
from .dealing import assign_splits, concept_split, deal_captions
from .sources import EMOJIBASE, VENDORS

VERSION = "1"
MIN_DRAWINGS = 6
"""Concepts that fewer vendors drew are left out: the more drawings, the more false negatives there are to manage."""
FIRST_CAPTION_ID = 1_000_000
"""Caption ids start here, so that no caption id is also an image id."""
ROW_GROUP = 512

_TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("image_id", pa.int64()),
        ("captions", _TEXTS),
        ("caption_ids", pa.list_(pa.int64())),
        *((name, pa.string()) for name in ("split", "group", "family", "subcategory", "category", "vendor", "licence")),
        ("names", _TEXTS),
        ("split_concept", pa.string()),
    ]
)


def drawn_often(matched: Mapping[str, Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    """Return the icons of the concepts with enough drawings, sorted by group."""
    return {group: icons for group, icons in sorted(matched.items()) if len(icons) >= MIN_DRAWINGS}


def rows(concepts: Mapping[str, Concept], drawings: Mapping[str, Mapping[str, bytes]]) -> Iterator[dict[str, Any]]:
    """Yield the rows, sorted by group and vendor.

    Args:
        concepts: The concepts by group.
        drawings: Encoded pictures by group and vendor.
    """
    number = 0
    for group in sorted(drawings):
        concept, pictures = concepts[group], drawings[group]
        captions = deal_captions(group, pictures, concept.captions)
        splits = assign_splits(group, pictures)
        for vendor in sorted(pictures):
            yield {
                "image": {"bytes": pictures[vendor], "path": f"{vendor}/{group}.webp"},
                "image_id": number,
                "captions": [captions[vendor]],
                "caption_ids": [FIRST_CAPTION_ID + number],
                "split": splits[vendor],
                "group": group,
                "family": concept.family,
                "subcategory": concept.subcategory,
                "category": concept.category,
                "vendor": vendor,
                "licence": VENDORS[vendor].licence,
                "names": list(concept.true_captions),
                "split_concept": concept_split(group),
            }
            number += 1


def write(table_rows: Iterator[dict[str, Any]], tools: Mapping[str, str], path: Path) -> None:
    """Write the rows to the Parquet file `path`; `tools` are the versions of the libraries that decide its bytes."""
    table = pa.Table.from_pylist(list(table_rows), SCHEMA.with_metadata(_provenance(tools)))
    pq.write_table(
        table,
        path,
        row_group_size=ROW_GROUP,
        # The pictures are compressed already, and too large to be compared or repeated.
        compression={name: "none" if name == "image.bytes" else "zstd" for name in _leaves()},
        write_statistics=[name for name in _leaves() if name != "image.bytes"],
        use_dictionary=[name for name in _leaves() if not name.startswith("image")],
    )


def _leaves() -> list[str]:
    leaves = []
    for field in SCHEMA:
        if pa.types.is_struct(field.type):
            leaves += [f"{field.name}.{child.name}" for child in field.type]
        else:
            leaves.append(f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name)
    return leaves


def _provenance(tools: Mapping[str, str]) -> dict[str, str]:
    packages = [EMOJIBASE, *(vendor.package for vendor in VENDORS.values())]
    return {
        "truepair.sample.version": VERSION,
        "truepair.sample.sources": json.dumps({package.name: package.version for package in packages}),
        "truepair.sample.licences": json.dumps({name: vendor.licence for name, vendor in VENDORS.items()}),
        "truepair.sample.tools": json.dumps(dict(sorted(tools.items()))),
    }
