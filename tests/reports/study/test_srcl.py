import re

from tests.reports.study.made_up import curve_rows
from tests.tasks.study.study_rows import study_rows
from truepair.reports.study.answers import answer_srcl
from truepair.reports.study.view import StudyCurves, StudyView
from truepair.tasks.study.table import StudyTable


def test_every_arm_is_drawn_six_lines_a_figure():
    """More arms than colours are spread over figures, each with the reference."""
    kept = [
        row for row in study_rows(seeds=(0,)) if row["data"] == "7 drawings" and row["arm"] in ("InfoNCE", "SRCL own")
    ]
    points = [row for row in curve_rows(seeds=(0,)) if row["data"] == "7 drawings"]
    names = [f"SRCL {number}" for number in range(8)]
    rows = [row | {"arm": name} for name in names for row in kept if row["arm"] == "SRCL own"]
    rows += [row for row in kept if row["arm"] == "InfoNCE"]
    curves = [row | {"arm": name} for name in names for row in points if row["arm"] == "SRCL own"]
    curves += [row for row in points if row["arm"] == "InfoNCE"]
    view = StudyView(StudyTable(rows, ["InfoNCE", *names]), StudyCurves(curves), "InfoNCE", "oracle relabel")
    drawn = {}
    for drawing in answer_srcl(view).drawings[1:]:
        label = re.search(r'aria-label="([^"]*)"', drawing.draw("p")).group(1)
        drawn.setdefault(drawing.title, []).append(re.findall(r"InfoNCE|SRCL \d", label))
    assert drawn["Weights of negatives, last epoch, 7 drawings"] == [names[:6], names[6:]]
    assert drawn["Information with negatives (nats), 7 drawings"] == [["InfoNCE", *names[:5]], ["InfoNCE", *names[5:]]]


def test_an_arm_that_knows_the_truth_is_not_the_best_of_them():
    rows = study_rows()
    rows += [row | {"arm": "SRCL with oracle", "retrieval_score": 99.0} for row in rows if row["arm"] == "SRCL own"]
    arms = ["InfoNCE", "SRCL own", "SRCL good seed", "SRCL with oracle"]
    view = StudyView(StudyTable(rows, arms), StudyCurves(), "InfoNCE", "oracle relabel")
    sentence = next(line for line in answer_srcl(view).sentences if line.startswith("7 drawings: clear gains"))
    assert "in 1 of 2 arms, clear losses in 1; best is SRCL good seed" in sentence


def test_one_arm_needs_no_counting():
    rows = [row for row in study_rows() if row["arm"] in ("InfoNCE", "SRCL own")]
    for row in rows:
        row["mi_negative"] = -9.0 if row["arm"] == "InfoNCE" else -3.0
    view = StudyView(StudyTable(rows, ["InfoNCE", "SRCL own"]), StudyCurves(), "InfoNCE", "oracle relabel")
    sentences = answer_srcl(view).sentences
    assert any(re.match(r"7 drawings: SRCL own against InfoNCE: .*points", sentence) for sentence in sentences)
    assert "ends at \N{MINUS SIGN}9.00 nats with InfoNCE, with SRCL at \N{MINUS SIGN}3.00 (SRCL own)." in sentences[-1]
