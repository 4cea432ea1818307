"""The tables at 80 columns: nothing is cut off, and runs stand under each other."""

import re
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from tests.reports.samples import metrics
from truepair.cli.tables import comparison_table, conversion_table, precision_table, retrieval_table, zero_shot_tables
from truepair.evaluation.detectors import precision_at
from truepair.evaluation.metrics import Estimate
from truepair.evaluation.zero_shot import ClassFigure, ZeroShotResult
from truepair.tasks.audit import Audit
from truepair.tasks.conversions import Conversions
from truepair.tasks.retrieval import RetrievalResult

WAYS = ("similarity", "ITM", "similarity + ITM")


def result(share: float, ways: tuple[str, ...] = WAYS) -> RetrievalResult:
    return RetrievalResult("pairs.csv", "test", {way: metrics(share) for way in ways}, None, 137, 150, 222)


def lines_of(table: Table) -> list[list[str]]:
    """The cells of each printed row."""
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(table)
    text = capture.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    rows = [re.split("[│┃]", line)[1:-1] for line in text.splitlines() if line.startswith(("│", "┃"))]
    return [[cell.strip() for cell in row] for row in rows]


def test_one_run_has_a_row_for_each_way_and_query() -> None:
    table = retrieval_table(result(0.5))
    assert table.title == "Retrieval on pairs.csv, test: 137 pictures, 150 captions, 222 distinct texts"
    rows = lines_of(table)
    assert rows[2] == ["picture", "any true match", "50.0%", "60.0%", "70.0%", "40.0%"]
    assert rows[3][:3] == ["picture", "usual protocol", "16.7%"]
    of_way = ["picture", "picture", "caption", "caption"]
    assert [row[0] for row in rows[1:]] == [name for way in WAYS for name in (way, *of_way)]


def test_protocols_that_agree_are_one_line() -> None:
    given = result(0.5)
    ways = {way: replace(one, naive_i2t=one.i2t, naive_t2i=one.t2i) for way, one in given.ways.items()}
    given = replace(given, ways=ways)
    rows = lines_of(retrieval_table(given))
    assert rows[2] == ["picture", "usual protocol", "50.0%", "60.0%", "70.0%", "40.0%"]
    assert [row[0] for row in rows[1:]] == [name for way in WAYS for name in (way, "picture", "caption")]
    table = comparison_table({"plain": given, "managed": given})
    assert table is not None and [column.header for column in table.columns] == [
        "run",
        "query",
        "R@1",
        "R@5",
        "R@10",
        "mAP@R",
    ]


def test_runs_stand_under_each_other() -> None:
    table = comparison_table({"as declared": result(0.5), "false negatives converted": result(0.4), "untested": None})
    assert table is not None
    rows = lines_of(table)
    names = [row[0] for row in rows]
    assert names.index("similarity") < names.index("ITM") < names.index("similarity + ITM")
    declared = [row for row in rows if row[0] == "as declared"]
    assert [row[1] for row in declared] == ["picture", "caption"] * 3
    assert declared[0][2:] == ["50.0%", "60.0%", "70.0%", "40.0%", "16.7%"]
    following = rows[rows.index(declared[0]) + 1]
    assert following[:3] == ["false negatives converted", "picture", "40.0%"]
    assert "untested" not in names


@pytest.mark.parametrize(("way", "reason"), [("ITM", ""), ("similarity", ": ITM was not trained")])
def test_suspects_say_what_ranked_them(way: Literal["ITM", "similarity"], reason: str) -> None:
    table = precision_table(Audit([], precision_at([True, False, None]), way))
    assert isinstance(table, Table)
    assert table.title == f"Suspected false negatives of the training set, ranked by {way}{reason}"
    assert lines_of(table)[1:] == [[depth, "2", "1", "50.0%"] for depth in ("50", "200")]


def test_suspects_of_which_no_truth_is_known_are_a_line() -> None:
    said = precision_table(Audit([], precision_at([None, None]), "ITM"))
    assert isinstance(said, str) and "no truth is known of them" in said


def test_a_way_that_one_run_lacks() -> None:
    table = comparison_table({"a": result(0.5), "b": result(0.4, ("similarity",))})
    assert table is not None
    assert [row[0] for row in lines_of(table)].count("b") == 2


def test_no_figures_no_table() -> None:
    assert comparison_table({"a": None}) is None


@pytest.mark.parametrize("known", [True, False])
def test_conversions(known: bool) -> None:
    verdicts = np.array(["true", "true", "near", "false"] if known else ["unknown"] * 4)
    zeros = np.zeros(4, dtype=np.int64)
    found = Conversions(
        zeros, zeros, zeros, np.ones(4, np.float32), zeros.astype(np.int32), verdicts, 0.625 if known else None
    )
    row = lines_of(conversion_table({"false negatives converted": found}))[-1]
    expected = ["4", "4", "2", "50.0%", "62.5%"] if known else ["4", "0", "0", "unknown", "unknown"]
    assert row == ["false negatives converted", *expected]


def test_zero_shot_figures_beside_those_before_training() -> None:
    classes = [ClassFigure(name, 50, share, "cat") for name, share in (("dog", 0.9), ("fox", 0.1), ("emu", 0.3))]
    found = ZeroShotResult("pets (val)", 1200, 3, 3, 7, Estimate(0.42, 0.4, 0.45), None, 0.41, classes)
    table, worst = zero_shot_tables(found, {"zero_shot_top1": 0.61, "zero_shot_class_mean": 0.6})
    assert lines_of(table)[1:] == [["before training", "61.0%", "", "60.0%"], ["trained", "42.0%", "", "41.0%"]]
    assert [row[0] for row in lines_of(worst)[1:]] == ["fox", "emu", "dog"]
    assert lines_of(worst)[1] == ["fox", "50", "10.0%", "cat"]
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(table)
    said = " ".join(capture.get().split())
    assert "1,200 pictures of pets (val), 3 classes, 7 prompts a class" in said
    assert "top-1 from 40.0% to 45.0% (95 %), chance 33.3%; 3 pictures that cannot be read are left out" in said
    assert [row[0] for row in lines_of(zero_shot_tables(found)[0])[1:]] == ["as it is"]
