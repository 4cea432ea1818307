import pytest

from tests.data.makers import picture, put
from truepair.data import open_pairs
from truepair.errors import DataError


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
