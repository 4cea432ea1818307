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
    assert table.skipped == [
        ("pairs.csv line 2", "it has 3 cells for 2 columns; a text that holds the delimiter must stand in quotes")
    ]


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

    with pytest.raises(DataError, match="3 of 4 rows"):  # of the file, not of what the quotes made of it
        open_pairs(source, max_skipped=0.5)
    table = open_pairs(source, max_skipped=0.8)

    assert table.rows["captions"][:] == [["two\nlines, both of the caption"]]
    why = "a quote in it is not closed before the next lines; repair it, or give quoting false"
    assert table.skipped == [("pairs.csv line 2", why)]


@pytest.mark.parametrize("name", ["captions.token.txt", "captions.tsv", "captions.csv"])
def test_lists_that_number_the_captions_of_an_image(folder, name):
    gap = "," if name.endswith(".csv") else "\t"
    text = "".join(f"{image}.png#{number}{gap}{image} {number}\n" for image in "ab" for number in range(2))
    table = open_pairs(put(folder / name, text.replace("a 0", "a 0" if gap == "," else "one, two, three")))

    assert len(table) == 4 and len(set(table.image_ids.tolist())) == 2
    assert table.image(3).getpixel((0, 0)) == (30, 30, 220)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends(folder, encoding, end):
    text = end.join(["", "image,caption", "a.png,caf\u00e9 \u732b", "", 'b.png,"x, y"', "", ""])

    table = open_pairs(put(folder / "pairs.csv", text.encode(encoding)))

    assert table.rows["captions"][:] == [["caf\u00e9 \u732b"], ["x, y"]]
    assert table.skipped == []


def test_encodings(folder):
    text = "image,caption\na.png,caf\u00e9 \u732b\n"
    marked = put(folder / "marked.csv", text.encode("utf-16"))
    plain = put(folder / "plain.csv", text.replace(" \u732b", "").encode("latin-1"))

    assert open_pairs(marked).rows["captions"][:] == [["caf\u00e9 \u732b"]]
    assert open_pairs(plain, encoding="latin-1").rows["captions"][:] == [["caf\u00e9"]]
    with pytest.raises(DataError, match=r"odd\.csv is not text: .*; give encoding"):
        open_pairs(put(folder / "odd.csv", b"\xff\xfea"))
    assert open_pairs(put(folder / "x.csv", f"\ufeff{text}"), encoding="utf8").image_ids.shape == (1,)
    with pytest.raises(DataError, match=r", or give encoding; the first: plain\.csv line 2: its caption is not UTF-8"):
        open_pairs(plain)
    with pytest.raises(ConfigError, match="there is no encoding 'utf-61'; give one such as"):
        open_pairs(plain, encoding="utf-61")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", "sep=;\nimage;caption\na.png;one, two\n"),
        ("pairs.csv", '"sep=,"\r\n"image","caption"\r\n"a.png","one, two"\r\n'),
        ("pairs.csv", 'image, caption\na.png, "one, two"\n'),
        ("pairs.csv", "image_name| comment_number| comment\na.png| 0| one, two\n"),  # Flickr30k's at Kaggle
        ("pairs.csv", ',image,caption\n0,a.png,"one, two"\n'),
        ("pairs.csv", '"image"\t"caption, or title"\t"text"\na.png\t-\t"one, two"\n'),
        ("pairs.csv", "Image Path;Alt-Text\na.png;one, two\n"),
        ("pairs.tab", "image\tcaption\na.png\tone, two\n"),
        ("pairs.csv", 'image,caption,,\na.png,"one, two",,\n'),
        ("pairs.csv", 'image,caption\na.png,"one, two",,\n'),
        ("pairs.psv", "image|caption\na.png|one, two\n"),
        ("pairs.tsv", "a.png\tone, two\n"),
        ("pairs.txt", "one, two\ta.png\n"),
        ("pairs.csv", 'a.png,"one, two"\n'),
        ("results.token", "a.png#0\tone, two\n"),  # Flickr30k's own list
        ("pairs.csv", '"a.png#0","one, two"\n'),
        ("pairs.csv", "image;caption\n a.png#12 ; one, two \n"),
    ],
)
def test_heads_that_tell_columns_and_delimiter(folder, name, text):
    table = open_pairs(put(folder / name, text))

    assert table.rows["captions"][:] == [["one, two"]]
    assert table.image(0).getpixel((0, 0)) == (220, 30, 30)
    assert table.skipped == []


def test_the_odd_name_in_the_list_of_flickr8k(folder):
    put(folder / "a.png.1", picture("blue"))
    table = open_pairs(put(folder / "Flickr8k.token.txt", "a.png#0\tone\na.png.1#0\ttwo\n"))

    assert [table.image(row).getpixel((0, 0)) for row in range(2)] == [(220, 30, 30), (30, 30, 220)]


def test_lists_of_more_columns_need_names(folder):
    source = put(folder / "pairs.tsv", "one\ta.png\tweb\n")

    with pytest.raises(DataError, match=r"pairs\.tsv has no header line, and 3 columns; give columns, such as"):
        open_pairs(source)
    assert open_pairs(source, columns=["caption", "image", "source"]).rows["source"][:] == ["web"]


def test_a_file_without_its_delimiter(folder):
    with pytest.raises(DataError, match=r"pairs\.tsv has no 'tab' in its first line, 'image,caption'; give delimiter"):
        open_pairs(put(folder / "pairs.tsv", "image,caption\na.png,x\n"))


@pytest.mark.parametrize("text", ['"hello" says a child', '"open', 'closed"', "5' 10\" tall", 'a "b" c'])
@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.csv", "pairs.txt"])
def test_quotes_between_tabs_are_text(folder, name, text):
    table = open_pairs(put(folder / name, f"image\tcaption\na.png\t{text}\nb.png\tx\n"))

    assert table.rows["captions"][:] == [[text], ["x"]]


def test_one_bad_quote_is_one_row_left_out(folder):
    rows = 'a.png,"hello" says a child\n' + "b.png,x\n" * 10

    table = open_pairs(put(folder / "pairs.csv", f"image,caption\n{rows}"))

    assert len(table) == 10
    (entry,) = table.skipped
    assert entry[0] == "pairs.csv line 2" and entry[1].startswith("it cannot be split into cells")


def test_a_quote_that_is_never_closed_loses_the_rows_after_it_aloud(folder):
    rows = "b.png,x\n" * 30 + 'a.png,"open\n' + "b.png,y\n" * 4

    with pytest.raises(DataError, match=r"5 of 35 rows .* line 32: a quote in it is not closed before the next lines"):
        open_pairs(put(folder / "pairs.csv", f"image,caption\n{rows}"))


def test_a_cell_that_is_far_longer_than_others_is_suspected(folder):
    poem = '"' + "\n".join(f"line {number}, of a poem" for number in range(9)) + '"'
    source = put(folder / "pairs.csv", f'image,caption\na.png,{poem}\nb.png,"two\nlines"\n' + "b.png,a short one\n" * 5)

    table = open_pairs(source)

    assert len(table) == 7
    why = "kept, though a cell of it has 9 lines and 161 characters, and other captions 11: if a stray quote ran on"
    assert [(where, reason.startswith(why)) for where, reason in table.skipped] == [("pairs.csv line 2", True)]


@pytest.mark.parametrize("name", ["txt", "TXT"])
def test_a_column_txt_holds_a_caption_a_line(folder, name):
    source = put(folder / "pairs.csv", f'image,{name}\na.png,"one\n\ntwo"\n')
    other = put(folder / "other.csv", 'image,caption\na.png,"one\ntwo"\n')

    assert open_pairs(source).rows["captions"][:] == [["one", "two"]]
    assert open_pairs(source, caption_lines="one").rows["captions"][:] == [["one\n\ntwo"]]
    assert open_pairs(other).rows["captions"][:] == [["one\ntwo"]]
    assert open_pairs(other, caption_lines="several").rows["captions"][:] == [["one", "two"]]


@pytest.mark.parametrize("text", ['"one, two; three",a.png\n', "one, two; three\ta.png\n"])
def test_stated_columns_tell_the_delimiter_by_cells_and_not_by_characters(folder, text):
    table = open_pairs(put(folder / "pairs.txt", text), columns=["caption", "image"])

    assert table.rows["captions"][:] == [["one, two; three"]]


@pytest.mark.parametrize("stated", ["utf-16", "UTF-16-LE", "utf_16_le"])
def test_a_stated_encoding_may_have_its_mark(folder, stated):
    source = put(folder / "pairs.csv", "image,caption\na.png,x\n".encode("utf-16"))

    assert open_pairs(source, encoding=stated).rows["captions"][:] == [["x"]]


@pytest.mark.parametrize("word", ["\t", "\\t", "tab"])
def test_the_tab_has_a_name(folder, word):
    assert (
        len(
            open_pairs(
                put(folder / "pairs.csv", "image,x\tcaption\na.png\tone\n"), delimiter=word, image_column="image,x"
            )
        )
        == 1
    )
    with pytest.raises(ConfigError, match=r"delimiter is '\|\|'; give one character, or tab"):
        open_pairs(folder / "pairs.csv", delimiter="||")


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file(folder, text):
    with pytest.raises(DataError, match=r"pairs\.csv holds no pairs; it is empty"):
        open_pairs(put(folder / "pairs.csv", text))


def test_a_few_zero_bytes_are_no_encoding(folder):
    table = open_pairs(put(folder / "pairs.csv", "image,caption\na.png,x\n" * 2 + "b.png,\0\0y\n"), max_skipped=0.5)

    assert table.rows["captions"][-1][0].endswith("y")


def test_pictures_that_are_still_in_an_archive(tmp_path):
    put(tmp_path / "images.zip", "x")

    with pytest.raises(DataError, match=r"none of the first 1 images .*; or unpack .*images\.zip, if they are in it"):
        open_pairs(put(tmp_path / "pairs.csv", "image,caption\na.png,x\n"))
