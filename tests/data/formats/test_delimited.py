import pytest

from tests.data.makers import picture, put
from truepair.data import open_pairs
from truepair.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "a.png", picture("red"))
    put(tmp_path / "b.png", picture("blue"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", 'filepath,title,source\na.png,"one, two",web\nb.png,"say ""three""",web\n'),
        ("pairs.csv", 'filepath\ttitle\tsource\na.png\tone, two\tweb\nb.png\t"say ""three"""\tweb\n'),
        ("pairs.tsv", 'source\tFilePath\tTitle\r\nweb\ta.png\tone, two\r\nweb\tb.png\tsay "three"\r\n'),
        ("pairs.txt", 'filepath|title|source\na.png|one, two|web\nb.png|"say ""three"""|web\n'),
    ],
)
def test_delimiter_and_columns_are_detected(folder, name, text):
    table = open_pairs(put(folder / name, text))

    assert table.rows["captions"][:] == [["one, two"], ['say "three"']]
    assert table.rows["source"][:] == ["web", "web"]
    assert table.image(1).getpixel((0, 0)) == (30, 30, 220)


def test_delimiter_and_columns_can_be_given(folder):
    source = put(folder / "pairs.csv", "p;q;r\nx,y,z;a.png;seven\n")

    table = open_pairs(source, delimiter=";", image_column="q", caption_column="r")

    assert table.rows["captions"][:] == [["seven"]]
    assert table.rows["p"][:] == ["x,y,z"]


def test_the_layout_of_cc3m_has_no_header_and_no_quoting(folder):
    source = put(folder / "cc3m.tsv", 'the "first" one\ta.png\n"a loose quote\tb.png\n')

    table = open_pairs(source, columns=("caption", "path"))

    assert table.rows["captions"][:] == [['the "first" one'], ['"a loose quote']]


def test_ids_splits_and_groups_are_taken_over(folder):
    text = "image,caption,image_id,caption_id,split,group\na.png,x,5,50,train,g\nb.png,y,6,60,test,g\n"

    table = open_pairs(put(folder / "pairs.csv", text))

    assert table.image_ids.tolist() == [5, 6]
    assert table.rows["caption_ids"][:] == [[50], [60]]
    assert table.splits == {"test": 1, "train": 1}
    assert table.rows["names"][:] == [["x", "y"], ["x", "y"]]


def test_lines_with_another_number_of_cells_are_listed(folder):
    source = put(folder / "pairs.csv", "image,caption\na.png,one, two\nb.png,three\n")

    table = open_pairs(source, max_skipped=0.5)

    assert len(table) == 1
    assert table.skipped == [("pairs.csv line 2", "it has 3 cells for 2 columns")]


def test_missing_columns_are_an_error_that_names_those_there_are(folder):
    with pytest.raises(DataError, match=r"has no caption column .* it has image, label: name one with caption_column"):
        open_pairs(put(folder / "pairs.csv", "image,label\na.png,x\n"))


def test_a_column_that_was_asked_for_must_exist(folder):
    with pytest.raises(DataError, match=r"has no image column \(photo\)"):
        open_pairs(put(folder / "pairs.csv", "image,caption\na.png,x\n"), image_column="photo")


def test_urls_are_an_error_with_a_remedy(folder):
    with pytest.raises(DataError, match=r"line 2: the image is a URL .* download the images first"):
        open_pairs(put(folder / "pairs.tsv", "caption\turl\nx\thttp://example.org/a.jpg\n"))


@pytest.mark.parametrize("text", ['image,caption\na.png,"never closed\n', 'image,caption\na.png,"x"y\n'])
def test_quotes_that_do_not_match_are_an_error(folder, text):
    with pytest.raises(DataError, match=r"pairs\.csv line 2: .* repair its quotes"):
        open_pairs(put(folder / "pairs.csv", text))


def test_a_tsv_has_tabs_and_no_quotes(folder):
    text = 'one, two, three, four\ta.png\n"hello" says a child\tb.png\n"a stray quote\ta.png\n'
    source = put(folder / "pairs.tsv", text)

    table = open_pairs(source, columns=("caption", "image"))

    assert table.rows["captions"][:] == [["one, two, three, four"], ['"hello" says a child'], ['"a stray quote']]
    headed = put(folder / "headed.tsv", f"caption, or title\timage\n{text}")
    assert open_pairs(headed, caption_column="caption, or title").rows["captions"][:] == table.rows["captions"][:]


def test_columns_tell_the_delimiter(folder):
    source = put(folder / "pairs.txt", "one, two, three\ta.png\n")

    assert open_pairs(source, columns=("caption", "image")).rows["captions"][:] == [["one, two, three"]]


def test_quoting_can_be_chosen(folder):
    quoted = put(folder / "pairs.tsv", 'image\tcaption\na.png\t"say ""three"""\n')
    unquoted = put(folder / "pairs.csv", 'image,caption\na.png,"open\nb.png,closed"\n')

    assert open_pairs(quoted, quoting=True).rows["captions"][:] == [['say "three"']]
    assert open_pairs(quoted).rows["captions"][:] == [['"say ""three"""']]
    assert open_pairs(unquoted, quoting=False).rows["captions"][:] == [['"open'], ['closed"']]


def test_a_quote_that_swallows_lines_is_listed(folder):
    lines = ['a.png,"a stray quote', "b.png,two", 'a.png,three"', 'b.png,"two\nlines, both of the caption"']
    source = put(folder / "pairs.csv", "\n".join(["image,caption", *lines]))

    table = open_pairs(source, max_skipped=0.5)

    assert table.rows["captions"][:] == [["two\nlines, both of the caption"]]
    why = "a quote in it is not closed before the next lines; repair it, or give quoting false"
    assert table.skipped == [("pairs.csv line 4", why)]


@pytest.mark.parametrize("name", ["captions.token.txt", "captions.tsv", "captions.csv"])
def test_lists_that_number_the_captions_of_an_image(folder, name):
    gap = "," if name.endswith(".csv") else "\t"
    text = "".join(f"{image}.png#{number}{gap}{image} {number}\n" for image in "ab" for number in range(2))
    table = open_pairs(put(folder / name, text.replace("a 0", "a 0" if gap == "," else "one, two, three")))

    assert len(table) == 4 and len(set(table.image_ids.tolist())) == 2
    assert table.image(3).getpixel((0, 0)) == (30, 30, 220)


def test_encodings(folder):
    text = "image,caption\na.png,caf\u00e9 \u732b\n"
    marked = put(folder / "marked.csv", text.encode("utf-16"))
    plain = put(folder / "plain.csv", text.replace(" \u732b", "").encode("latin-1"))

    assert open_pairs(marked).rows["captions"][:] == [["caf\u00e9 \u732b"]]
    assert open_pairs(plain, encoding="latin-1").rows["captions"][:] == [["caf\u00e9"]]
    with pytest.raises(DataError, match=r"odd\.csv is not text: .*; give encoding"):
        open_pairs(put(folder / "odd.csv", b"\xff\xfea"))
    with pytest.raises(ConfigError, match="there is no encoding 'utf-61'; give one such as"):
        open_pairs(plain, encoding="utf-61")
