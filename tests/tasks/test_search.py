"""A question to vectors on disk, by the real command and by the function behind it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.models.folders import save_albef, save_clip
from tests.reports.test_browser import BROWSER, probe
from tests.tasks.test_embedding import run as embed
from truepair import Retriever
from truepair.cli.main import main
from truepair.errors import ConfigError, DataError
from truepair.reports.search import write_search_page
from truepair.tasks.search import search_vectors
from truepair.tasks.vectors import StoredVectors


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def vectors(model: Path, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("vectors") / "v.parquet"
    embed(model, squares / "pairs.jsonl", output, save_every=100)
    return output


def ask(model: Path, vectors: Path, *queries: str, **options: Any) -> tuple[Any, list[str]]:
    lines: list[str] = []
    return search_vectors(model, vectors, queries, lines.append, **options), lines


def test_pictures_are_found_by_texts_and_by_pictures(model: Path, vectors: Path, squares: Path, tmp_path: Path) -> None:
    new = tmp_path / "not in the set.png"
    Image.new("RGB", (40, 30), "navy").save(new)
    queries = ["a red square", str(squares / "red-large-1.png"), str(new)]
    result, lines = ask(model, vectors, *queries, k=4)
    assert lines == [] and result.kind == "image" and result.among == 48
    retriever, stored = Retriever.load(model), StoredVectors.open(vectors)
    pictures = stored.vectors[stored.places_of("image")]
    asked = [retriever.encode_texts(queries[:1]), retriever.encode_images(queries[1:])]
    for query, answer in zip(np.concatenate(asked), result.answers, strict=True):
        best = sorted(pictures @ query, reverse=True)[:4]
        np.testing.assert_allclose([found.score for found in answer.found], best, atol=1e-6)
        for found in answer.found:
            assert found.about["kind"] == "image" and stored.vectors[found.place] @ query == pytest.approx(found.score)
    assert result.answers[1].found[0].about["path"] == queries[1]
    assert result.answers[1].found[0].score == pytest.approx(1, abs=1e-5)


def test_captions_are_found_once_each(model: Path, vectors: Path) -> None:
    result, _ = ask(model, vectors, "red square, small", what="captions", k=50)
    found = [hit.about["captions"][0] for hit in result.answers[0].found]
    assert len(found) == len(set(found)) == result.among == 24 and found[0] == "red square, small"


def test_a_query_that_is_cut_is_told(model: Path, vectors: Path) -> None:
    long = "a red square " * 9
    _, lines = ask(model, vectors, "a red square", long)
    assert lines == [f"the query is longer than the 12 tokens that the model reads, and its end is cut: {long}"]


def test_what_cannot_be_asked_is_one_line(model: Path, vectors: Path, squares: Path, tmp_path: Path) -> None:
    other = save_albef(tmp_path / "albef")
    with pytest.raises(DataError, match=r"made by another model \(.*clip.*\) than .*albef, and are not comparable"):
        ask(other, vectors, "a")
    with pytest.raises(DataError, match=r"there is no picture gone.jpg; check the path"):
        ask(model, vectors, "gone.jpg")
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(DataError, match=r"broken.png is not an image"):
        ask(model, vectors, str(tmp_path / "broken.png"))
    embed(model, squares / "pairs.jsonl", tmp_path / "images.npy", what="images", save_every=100)
    with pytest.raises(ConfigError, match=r"images.npy holds no captions; embed them with --what both"):
        ask(model, tmp_path / "images.npy", "a", what="captions")
    embed(model, squares / "pairs.jsonl", tmp_path / "texts.npy", what="captions", save_every=100)
    assert ask(model, tmp_path / "texts.npy", "a")[0].kind == "caption"


def test_the_command_prints_a_table_and_writes_a_page(
    model: Path, vectors: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    picture = str(squares / "red-large-1.png")
    main(["search", str(model), str(vectors), "a [red] square", picture, "-k", "3", "--page", str(page)])
    printed = capsys.readouterr()
    assert "a [red] square: the best of 48 images" in printed.out and "1.000" in printed.out
    assert "the page with the pictures" in printed.err
    source = page.read_text()
    assert source.count("data:image/webp") == 2 * 3 + 1
    assert "among 48 pictures of" in source and "a [red] square" in source and "<script" not in source


def test_mistakes_of_the_command_are_one_line(
    model: Path, vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        ([str(model), str(vectors)], "give the model, the vectors and a query"),
        ([str(model), str(tmp_path / "no.parquet"), "a"], "make it with 'truepair embed'"),
        ([str(model), str(vectors), "a", "-k", "0"], "k is 0; give 1 or more"),
        ([str(model), str(vectors), "a", "--pages", "x"], "no option --pages (did you mean 'page'?)"),
    ):
        with pytest.raises(SystemExit):
            main(["search", *words])
        error = capsys.readouterr().err.strip()
        assert message in error and "\n" not in error


@pytest.mark.skipif(BROWSER is None, reason="no Chromium found; install the package chromium to run this test")
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_the_page_fits_its_window(model: Path, squares: Path, tmp_path: Path, width: int, scheme: str) -> None:
    rows = [json.loads(line) for line in (squares / "pairs.jsonl").read_text().splitlines()][:6]
    long = "x" * 90 + " & <b>not markup</b> " + "word " * 60
    for row in rows:
        shutil.copy(squares / row["image"], tmp_path)
        row["captions"] = [long, "b", "c", "d"]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    embed(model, tmp_path / "pairs.jsonl", tmp_path / "v.parquet")
    result, _ = ask(model, tmp_path / "v.parquet", long, str(squares / "red-large-1.png"))
    page = write_search_page(result, tmp_path / "search.html", command="truepair search " + "y" * 200)
    said = probe(tmp_path, page.read_text(), width, scheme)
    assert said["scrollWidth"] <= width and said["wide"] == []
    assert [name for name in said["requests"] if not name.startswith("data:")] == []
    assert said["paper"] == {"light": "rgb(250, 249, 246)", "dark": "rgb(20, 23, 26)"}[scheme]
