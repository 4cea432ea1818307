import pytest

from tests.tasks.study.study_rows import study_rows, study_table
from truepair.errors import ConfigError
from truepair.reports.study.view import StudyCurves, StudyView
from truepair.tasks.study.config import QuestionArms
from truepair.tasks.study.table import StudyTable


def view(table=None, **questions):
    return StudyView(table or study_table(), StudyCurves(), "InfoNCE", "oracle relabel", questions)


def test_arms_are_found_by_the_terms_in_their_names():
    plain = view()
    assert plain.arms_of("srcl") == ["SRCL own", "SRCL good seed"]
    assert plain.arms_of("batches") == ["GRIT", "GRIT + ECM", "GRIT + removal"]
    assert plain.arms_of("mafa") == ["S-ITC 0.3", "GRIT", "GRIT + ECM", "GRIT + removal"]
    assert len(plain.arms_of("density")) == 7  # all but reference and ceiling
    assert plain.methods == ["S-ITC 0.3", "SRCL own", "SRCL good seed", "GRIT", "GRIT + ECM", "GRIT + removal"]


def test_the_study_file_may_name_them():
    named = view(
        srcl=QuestionArms(arms=["S*own", "GRIT"]), mafa=QuestionArms(pairs=[["GRIT", "InfoNCE"], ["x", "GRIT"]])
    )
    assert named.arms_of("srcl") == ["SRCL own", "GRIT"]
    assert named.arms_of("mafa") == view().arms_of("mafa")
    assert named.pairs_of("mafa") == [("GRIT", "InfoNCE")]
    assert named.pairs_of("srcl") == []
    with pytest.raises(ConfigError, match="'srlc' is not one of"):
        view(srlc=QuestionArms())


def test_gains_on_the_main_test_unless_another_is_asked():
    rows = study_rows()
    for row in rows:
        row["retrieval_score"] += 100 * (row["test"] == "unseen" and row["arm"] == "GRIT")
    reversed_tests = sorted(rows, key=lambda row: row["test"] == "held_out")
    found = view(StudyTable(reversed_tests, ["InfoNCE", "GRIT", "oracle relabel"]))
    assert found.table.tests == ["unseen", "held_out"]
    assert found.test == "held_out"
    assert found.gain("GRIT", "7 drawings").mean == pytest.approx(-4, abs=0.5)
    assert found.gain("GRIT", "7 drawings", test="unseen").mean == pytest.approx(96, abs=0.5)
    assert found.gain("GRIT", "7 drawings", figure="naive").mean == pytest.approx(-2, abs=0.5)
    assert found.gain("GRIT", "7 drawings", over="oracle relabel").mean == pytest.approx(-15, abs=0.5)
    assert found.recovered("GRIT", "7 drawings").value == pytest.approx(-4 / 11, abs=0.05)


def test_a_study_without_the_main_test_has_its_first():
    rows = [row for row in study_rows() if row["test"] == "unseen"]
    assert view(StudyTable(rows, ["InfoNCE"])).test == "unseen"
