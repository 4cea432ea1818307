"""Rows that are made many at once are those made one at a time, to the byte, and the same is said of them."""

import csv
import io
import json
import math
from dataclasses import replace
from tempfile import TemporaryDirectory

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.makers import put, put_jsonl
from truepair.cli.main import main
from truepair.data.formats import delimited, hub, parquet, record
from truepair.data.formats import json as json_formats
from truepair.data.open import READERS, source_config
from truepair.data.store import making, rows
from truepair.data.store.making import is_unicode
from truepair.errors import DataError

SMALL = {
    (making, "_FEW"): 2,
    (record, "_AT_ONCE"): 7,
    (rows, "_BATCH_ROWS"): 5,
    (rows, "_BATCH_BYTES"): 9,
    (json_formats, "_PARSED_AT_ONCE"): 150,
    (hub, "_ROWS_AT_ONCE"): 4,
    (hub, "_BYTES_AT_ONCE"): 100,
}

PLAIN = {"image": "first.png", "caption": "a dog"}

NAMED_OTHERWISE = {"text": "a dog", "group": "first.png"}  # the columns that options ask for

TEXTS = st.one_of(
    st.sampled_from(["a dog", " a dog\t", "hund \u00e4", "\u72ac", "\u2028", "", " ", "\ud83d", "\ud83d\ude00", "\0"]),
    st.sampled_from(["\ufeff", "\u3000", "x" * 60, "NaN", "2305843009213693951", 'a "dog"', "a\nb", "a\r\nb", "\\"]),
    st.text(max_size=4),
)

PATHS = st.one_of(
    st.sampled_from(["a.png", "./a.png", "d//a.png", "d/../a.png", "d/./b.png", ".h.png", "..a/b.png", "d/", "/d.png"]),
    st.sampled_from(
        ["\u00e4/b.png", "pre/a.png", "d\\a.png", "", "a\nb.png", "a\0.png", "\ud83d.png", "../a.png", "."]
    ),
    st.sampled_from(["http://a.org/b.png", "https://a", " a.png", "a.png#1", "/", "//", "first.png"]),
)

NUMBERS = st.sampled_from(
    [7, 0, -3, 2**53 + 1, 2**63 - 1, 2**63, 10**400, 1.5, 7.0, 2.0**61, math.nan, math.inf, 1e300]
)

SCALARS = st.one_of(TEXTS, NUMBERS, st.none(), st.booleans(), st.sampled_from(["7", "07", "\u0667", "1" * 5000]))

ANYTHING = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2)

SPLITS = st.sampled_from(["train", "Validation", " dev ", "odd", ""])

USUAL = {
    "image": PATHS,
    "caption": TEXTS | st.lists(TEXTS, max_size=3),
    "image_id": st.integers(0, 5),
    "caption_id": st.integers(0, 5),
    "split": SPLITS,
    "group": st.sampled_from("gh"),
    "names": st.lists(TEXTS, max_size=3) | st.none(),
    "vendor": TEXTS,
}

OTHER_NAMES = ("Caption", "captions", "text", "path", "caption_ids", "family", "txt", "boxes", "\u00e4")

WITH_IDS = st.lists(st.tuples(TEXTS, st.integers(0, 9) | st.integers(0, 9) | SCALARS), min_size=1, max_size=3).map(
    lambda pairs: dict(zip(("caption", "caption_ids"), map(list, zip(*pairs, strict=True)), strict=True))
)

OTHER = dict.fromkeys((*USUAL, *OTHER_NAMES), ANYTHING)

RAW = st.sampled_from(
    [
        b"", b" ", b"\t", "\u3000".encode(), b"[]", b"{}", b"7", b"null", b'"x"', b"NaN", b"{", b"}", b",", b"]", b"[",
        b'{"image": "a.png", "caption": "x"', b'{"image": "a.png"} {"caption": "x"}', b"2305843009213693951",
        b'{"image": "a.png", "caption": "x", "caption": "y"}', b'{"image": "a.png", "caption": "x"},{"image": "b"}',
        b'{"image": "a.png", "caption": ["x"', b'"y"]}', b'{"image": "a.png", "caption": "x\xff"}', b'\xef\xbb\xbf{}',
        b'{"image": "a.png", "caption": "x", "image_id": 1' + b"0" * 5000 + b"}", b"1], [2", b'{"a": ' * 2000,
        b' {"image": "a.png", "caption": "x"}\x0b', b'{"image": "a.png",\r"caption": "x"}', b'{"caption": "x\\ud83d"}',
    ]
)  # fmt: skip


def entry(fields):
    return st.fixed_dictionaries({}, optional=fields)


ENTRY = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"image": PATHS, "caption": TEXTS}),
    WITH_IDS,
    entry(USUAL),
    entry(OTHER),
    entry(OTHER),
)

LISTS = st.lists(WITH_IDS | st.just({}), max_size=20)

STORED = TEXTS.filter(is_unicode)

EMBEDDED = st.fixed_dictionaries(
    {"bytes": st.sampled_from([b"", b"12345678", b"123456789012"]), "path": st.sampled_from(["a.png", "b.png", None])}
)

PICTURES = st.one_of(
    EMBEDDED,
    st.fixed_dictionaries({"bytes": st.just(b"1"), "path": PATHS | st.none()}),
    st.fixed_dictionaries({"bytes": st.none(), "path": PATHS | st.none()}),
    st.none(),
)

NAMES = st.lists(STORED | st.none(), max_size=3) | st.none()

ENTRIES = st.lists(ENTRY.map(lambda fields: PLAIN | fields), max_size=30) | st.lists(
    entry(OTHER) | st.just(PLAIN), max_size=12
)

OPTIONS = st.sampled_from(
    [
        {},
        {"allow_outside_root": False},
        {"on_bad": "error"},
        {"derive_ids": True},
        {"labels": True},
        {"caption_lines": "several"},
        {"caption_column": "text"},
        {"image_column": "group"},
        {"max_caption_length": 5},
        {"max_caption_length": 50},
        {"strip_prefix": "d"},
        {"strip_prefix": "pre/", "derive_ids": True},
    ]
).map(lambda options: {"max_skipped": 1.0, "allow_outside_root": True} | options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    put(folder / "first.png", "the root is found by it")
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few rows are many."""
    for (module, name), value in SMALL.items():
        monkeypatch.setattr(module, name, value)


@settings(max_examples=250)
@given(entries=ENTRIES, options=OPTIONS, data=st.data())
def test_lines(folder, entries, options, data):
    lines = [
        json.dumps(each, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass") for each in entries
    ]
    for _ in range(data.draw(st.integers(0, 4))):
        lines.insert(data.draw(st.integers(0, len(lines))), data.draw(RAW))
    end = data.draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]))
    mark = data.draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"]))
    last = data.draw(st.sampled_from([b"", end]))
    file = folder / "pairs.jsonl"
    file.write_bytes(mark + end.join([json.dumps(PLAIN | NAMED_OTHERWISE).encode(), *lines]) + last)

    compare(file, options)


@pytest.mark.parametrize(
    "lines",
    [
        [b'{"caption": ["x"', b'"y"]}', b'{"caption": "x"},{"caption": "y"}'],
        [b'{"caption": ["x"', b'"y"]}', b'{"caption": "x"},2305843009213693951,{"caption": "y"}'],
        [b'{"caption": ["x"', b'"y"]}', b'{"caption": "x"},2.305843009213693951e18,{"caption": "y"}'],
        [b'{"caption": ["x"', b'"y"]}', b'{"caption": "x"},"2305843009213693951",{"caption": "y"}'],
        [b"1], [2", b"1, 2"],
        [b"2305843009213693951", b"{}"],
        [b"", b"\xe3\x80\x80", b"{}"],
    ],
)
def test_lines_that_are_no_value_each_do_not_pass_as_a_list(folder, lines):
    file = folder / "pairs.jsonl"
    file.write_bytes(b"\n".join([json.dumps(PLAIN).encode(), *lines, b'{"image": "a.png", "caption": "x"}']))

    compare(file, {"max_skipped": 1.0})


@settings(max_examples=60)
@given(entries=ENTRIES, options=OPTIONS)
def test_entries_of_a_list(folder, entries, options):
    file = put(folder / "pairs.json", json.dumps([PLAIN | NAMED_OTHERWISE, *entries, 7]))

    compare(file, options)


@settings(max_examples=100)
@given(
    names=st.lists(st.sampled_from(list(OTHER)), max_size=3),
    cells=st.lists(
        st.tuples(PATHS, TEXTS, st.lists(SCALARS.map(str) | st.just(""), min_size=3, max_size=4)), max_size=20
    ),
    options=OPTIONS,
    ending=st.sampled_from(["csv", "tsv"]),
)
def test_cells(folder, names, cells, options, ending):
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if ending == "tsv" else ",", escapechar="\\")
    writer.writerow(["image", "caption", *names])
    for path, caption, others in [("first.png", "a dog", ["1", "2", "3"]), *cells]:
        writer.writerow([path, caption, *others[: len(names)], *others[3:]])
    file = folder / f"pairs.{ending}"
    file.write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))

    compare(file, options)


@settings(max_examples=60)
@given(
    cells=st.lists(
        st.tuples(
            PATHS | st.none(),
            TEXTS | st.none(),
            st.integers(-1, 3) | st.none(),
            st.floats(0, 2) | st.sampled_from([math.nan, None]),
        ),
        max_size=20,
    ),
    options=OPTIONS,
)
def test_rows_of_parquet(folder, cells, options):
    first = ("first.png", "a dog", 7, 1.0)
    columns = [
        [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in column]
        for column in zip(first, *cells, strict=True)
    ]
    texts = [pa.array(column, pa.binary()).view(pa.string()) for column in columns[:2]]
    file = folder / "pairs.parquet"
    pq.write_table(
        pa.table({"image": texts[0], "caption": texts[1], "image_id": columns[2], "score": columns[3]}), file
    )

    compare(file, options)


@settings(max_examples=60)
@given(entries=LISTS, options=OPTIONS)
def test_lines_with_ids_of_captions(folder, entries, options):
    put_jsonl(folder / "pairs.jsonl", [PLAIN | NAMED_OTHERWISE, *(PLAIN | fields for fields in entries)])

    compare(folder / "pairs.jsonl", options)


@settings(max_examples=60)
@given(
    cells=st.lists(
        st.one_of(
            st.tuples(EMBEDDED, st.sampled_from(["a dog", "two"]), st.just(["a dog"]) | NAMES, st.just([7])),
            st.tuples(EMBEDDED, st.sampled_from(["a dog", "two"]), st.none(), st.just([7])),
            st.tuples(PICTURES, TEXTS, NAMES, st.lists(st.integers(-1, 9), max_size=2)),
        ),
        max_size=20,
    ),
    options=OPTIONS,
)
def test_pictures_in_parquet(folder, cells, options):
    pictures, captions, names, ids = zip(
        ({"bytes": b"1", "path": "first.png"}, "a dog", None, [7]), *cells, strict=True
    )
    stored = [
        {
            name: value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
            for name, value in (picture or {}).items()
        }
        for picture in pictures
    ]
    texts = pa.array([text.encode("utf-8", "surrogatepass") for text in captions], pa.binary()).view(pa.string())
    fields = [pa.array([one.get(name) for one in stored], pa.binary()) for name in ("bytes", "path")]
    image = pa.StructArray.from_arrays([fields[0], fields[1].view(pa.string())], ["bytes", "path"])
    names = pa.array(names, pa.list_(pa.string()))
    file = folder / "pairs.parquet"
    pq.write_table(pa.table({"image": image, "caption": texts, "names": names, "caption_ids": list(ids)}), file)

    compare(file, options)


@settings(max_examples=100)
@given(
    cells=st.lists(
        st.tuples(
            PICTURES | PATHS,
            STORED | st.none(),
            st.lists(STORED, min_size=1, max_size=2),
            st.integers(-1, 1) | st.none(),
            NAMES,
            st.lists(st.integers(-1, 9), max_size=2) | st.none(),
            SPLITS | st.none(),
            st.integers(0, 3) | st.none(),
        ),
        max_size=20,
    ),
    embedded=st.booleans(),
    caption=st.sampled_from(["text", "list", "class"]),
    splits=st.sampled_from([("",), ("train", "validation"), ("odd one",), ("train", "odd one")]),
    options=OPTIONS,
)
def test_rows_of_the_datasets_library(folder, cells, embedded, caption, splits, options):
    first = ({"bytes": None, "path": "first.png"}, "a dog", ["a dog"], 0, None, [7], None, 3)
    images, texts, lists, classes, names, ids, words, numbers = zip(first, *cells, strict=True)
    images = [as_image(image) if embedded else as_path(image) for image in images]
    kinds = {
        "text": (texts, datasets.Value("string")),
        "list": (lists, datasets.List(datasets.Value("string"))),
        "class": (classes, datasets.ClassLabel(names=["cat", "dog"])),
    }
    columns = {
        "image": (images, datasets.Image() if embedded else datasets.Value("string")),
        "caption": kinds[caption],
        "names": (names, datasets.List(datasets.Value("string"))),
        "caption_ids": (ids, datasets.List(datasets.Value("int64"))),
        "split": (words, datasets.Value("string")),
        "vendor": (numbers, datasets.Value("int64")),
    }
    features = datasets.Features({name: kind for name, (_, kind) in columns.items()})
    data = datasets.Dataset.from_dict({name: list(column) for name, (column, _) in columns.items()}, features=features)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "_load", lambda source: dict.fromkeys(splits, data))

        compare(folder, options | {"caption_column": "caption", "image_column": "image"})


def as_image(image):
    """A cell that an image column of the library can hold."""
    cell = {"bytes": None, "path": image} if isinstance(image, str) else image or {}
    path = cell.get("path")
    stored = {"bytes": cell.get("bytes"), "path": path if path and is_unicode(path) else None}
    return None if stored == {"bytes": None, "path": None} else stored


def as_path(image):
    """A cell that a text column can hold."""
    path = image if isinstance(image, str) else (image or {}).get("path")
    return path if path and is_unicode(path) else None


def test_an_odd_line_among_many_costs_no_row_and_is_named_by_the_command(folder, monkeypatch, capsys):
    monkeypatch.undo()  # as many at once as ever
    entries = [PLAIN | {"caption": f"a dog {number}"} for number in range(3000)]
    entries[1500] = PLAIN | {"caption": ["a cat", 5, "a cow"]}
    entries[2999] = {"image": "first.png"}
    file = put_jsonl(folder / "many.jsonl", entries)
    with file.open("a") as lines:
        lines.write('\n{"image": "first.png", "caption": "a hen"')

    main(["doctor", str(file), "--no-pictures", "--json", str(folder / "found.json")])

    assert "2,999 rows (train 2,999), 1 pictures, 3,000 captions" in capsys.readouterr().out
    found = json.loads((folder / "found.json").read_text())
    assert [example["text"] for example in found["examples"]["left_out"]] == [
        "many.jsonl line 1501, caption 2: its caption is not text but 5",
        f"many.jsonl line 3000: it has no caption column ({', '.join(record.CAPTION_NAMES)}); it has image: name one "
        "with caption_column",
        "many.jsonl line 3002: it is not JSON (Expecting ',' delimiter: line 1 column 42 (char 41))",
    ]


def compare(file, options):
    """Both ways give the same file and say the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making.RowMaker, "columns", lambda maker, entries: None)
        patch.setattr(json_formats, "_parsed", lambda lines: [json_formats._value(line) for line in lines])
        for module in (json_formats, delimited, parquet, hub):
            patch.setattr(module, "in_runs", one_by_one)
        patch.setattr(hub, "_some_rows", lambda rows: ((number, [entry]) for number, entry in enumerate(rows)))
        expected = made(file, options)
    assert made(file, options) == expected


def one_by_one(entries):
    """Runs of one row."""
    for each in entries:
        if each is not None:
            common, number, values = each
            yield replace(common, numbers=[number], values=[values])


def made(file, options):
    """The bytes of a table and what was left out, or what was wrong."""
    config = source_config(file, **options)
    formats = {".jsonl": "jsonl", ".json": "albef", ".parquet": "parquet", "": "hub"}
    with TemporaryDirectory() as folder:
        target = f"{folder}/rows.arrow"
        try:
            reader = READERS[formats.get(file.suffix, "delimited")](config)
            skips, origins = rows.write_rows(reader, config, target)
        except DataError as error:
            return str(error)
        with open(target, "rb") as stream:  # noqa: PTH123
            return stream.read(), skips.entries, skips.rows, skips.reasons, origins
