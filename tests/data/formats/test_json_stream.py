import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.makers import put
from truepair.cli.main import main
from truepair.data.formats import json_stream
from truepair.data.formats.json_stream import is_json_list, list_entries, member_entries
from truepair.errors import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)

OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("json") / "list.json"


@pytest.fixture(autouse=True, params=[1, 3, 1 << 22])
def chunk(request, monkeypatch):
    """How many characters are read at once."""
    monkeypatch.setattr(json_stream, "_CHUNK", request.param)


def test_a_file_that_ends_within_a_character_is_told_in_a_line(tmp_path, capsys):
    file = tmp_path / "pairs.jsonl"
    file.write_bytes('{"image": "a.png", "caption": "a dog"}'.encode("utf-16") + b"\n")

    with pytest.raises(SystemExit):
        main(["doctor", str(file), "--no-pictures"])

    assert "pairs.jsonl is not text: 'utf-16-le' codec" in capsys.readouterr().err


def members(path, *names):
    return list(member_entries(path, names))


@given(entries=st.lists(VALUES, max_size=4), indent=st.none() | st.integers(0, 2), ascii_only=st.booleans())
def test_a_list_has_the_entries_that_json_reads(place, entries, indent, ascii_only):
    text = json.dumps(entries, indent=indent, ensure_ascii=ascii_only)
    place.write_bytes(f"\ufeff {text}\r\n".encode("utf-8", "surrogatepass" if ascii_only else "replace"))

    expected = json.loads(place.read_text(encoding="utf-8-sig", errors="surrogateescape"))

    assert is_json_list(place)
    assert list(list_entries(place)) == expected


@given(one=st.lists(OBJECTS, max_size=3), two=st.lists(OBJECTS, max_size=3), others=st.dictionaries(st.text(), VALUES))
def test_an_object_has_the_lists_that_json_reads(place, one, two, others):
    content = {"one": one, **{f"x{name}": value for name, value in others.items()}, "two": two}
    place.write_text(json.dumps(content))

    found = members(place, "two", "one")

    assert found == [("one", entry) for entry in one] + [("two", entry) for entry in two]


@given(entries=st.lists(OBJECTS, min_size=1, max_size=3), data=st.data())
def test_what_json_refuses_is_refused_at_the_same_place(place, entries, data):
    text = json.dumps({"images": entries}, indent=1)
    at = data.draw(st.integers(0, len(text) - 1))
    broken = text[:at] + data.draw(st.sampled_from(["", "]", "}", ",", ":", '"', "\n", "nul", "\x00"])) + text[at + 1 :]
    place.write_text(broken)
    try:
        content = json.loads(broken)
    except ValueError as error:
        with pytest.raises(DataError) as raised:
            members(place, "images")
        said = re.search(r"char (\d+)", str(raised.value))
        if said is not None and "Invalid" not in str(error):  # else the list itself had another name or kind
            assert f"(char {said[1]})" in str(error)
            assert re.search(r"line \d+ column \d+", str(error))[0] in str(raised.value)
        return
    if isinstance(content.get("images"), list) and all(isinstance(entry, dict) for entry in content["images"]):
        assert [entry for _, entry in members(place, "images")] == content["images"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "not JSON (Expecting ',' delimiter: line 1 column 6 (char 5))"),
        ("[1, 2] 3", "not JSON (Extra data: line 1 column 8 (char 7))"),
        ('[\n {"a": 1},\n {"b" 2}]', "not JSON (Expecting ':' delimiter: line 3 column 7 (char 19))"),
        ("[1, ]", "not JSON (Expecting value: line 1 column 5 (char 4))"),
        ("", "not JSON (Expecting a list: line 1 column 1 (char 0))"),
    ],
)
def test_a_broken_list_is_an_error_that_says_where(tmp_path, text, message):
    with pytest.raises(DataError, match=re.escape(message)):
        list(list_entries(put(tmp_path / "list.json", text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "has no list of objects under 'images'"),
        ('"images"', "has no list of objects under 'images'"),
        ("{}", "has no list of objects under 'images'"),
        ('{"images": {}}', "has no list of objects under 'images'"),
        ('{"images": [], "images": []}', "has 'images' 2 times; leave one"),
        ('{"images": [] "a": 1}', "not JSON (Expecting ',' delimiter: line 1 column 15 (char 14))"),
        ("{images: []}", "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
    ],
)
def test_another_object_is_an_error(tmp_path, text, message):
    with pytest.raises(DataError, match=re.escape(message)):
        members(put(tmp_path / "object.json", text), "images")


def test_a_nest_without_an_end_is_an_error(tmp_path):
    with pytest.raises(DataError, match="is not JSON"):
        list(list_entries(put(tmp_path / "list.json", "[" * 200_000)))
