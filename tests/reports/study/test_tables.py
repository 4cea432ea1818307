import numpy as np

from tests.tasks.study.study_rows import study_rows, study_table
from truepair.reports.data import FactGroup
from truepair.reports.study.data import TextTable
from truepair.reports.study.tables import arm_tables, markdown, write_markdown
from truepair.reports.study.view import StudyCurves, StudyView
from truepair.reports.study.words import TextCell
from truepair.tasks.study.table import StudyTable


def tables(table):
    return arm_tables(StudyView(table, StudyCurves(), "InfoNCE", "oracle relabel"))


def test_one_table_for_each_kind_of_data_with_level_gain_and_share():
    found = tables(study_table())
    assert [table.title for table in found] == ["2 drawings: held out", "7 drawings: held out"]
    columns = list(found[1].columns)
    assert columns[1:5] == ["runs", "score", "gain over InfoNCE", "share of oracle relabel"]
    assert "gain, unseen concepts" in columns
    rows = dict(found[1].rows)
    assert next(iter(rows)) == "InfoNCE"
    assert all(len(cells) == len(columns) - 1 for cells in rows.values())
    scores = list(study_table().figures("GRIT", "7 drawings", "held_out", "retrieval_score").values())
    assert rows["GRIT"][0].text == "15"
    assert rows["GRIT"][1] == (f"{np.mean(scores):.1f}", f"± {np.std(scores, ddof=1):.1f}")
    assert rows["GRIT"][2].text.startswith("\N{MINUS SIGN}4.") or rows["GRIT"][2].text.startswith("\N{MINUS SIGN}3.")
    assert rows["oracle relabel"][3].text == "100 %"
    assert rows["InfoNCE"][2:6] == [TextCell("\N{EN DASH}")] * 4
    assert rows["InfoNCE"][-1].text == "10.0"


def test_arms_without_a_run_on_some_data_are_left_out_there():
    rows = [row for row in study_rows() if (row["arm"], row["data"]) != ("GRIT", "2 drawings")]
    few, many = tables(StudyTable(rows, ["InfoNCE", "GRIT"]))
    assert [name for name, _ in few.rows] == ["InfoNCE"]
    assert [name for name, _ in many.rows] == ["InfoNCE", "GRIT"]


def test_a_study_that_trains_itm_states_its_score_and_gain():
    found = tables(study_table())
    assert all("ITM" not in column for table in found for column in table.columns)
    matched = {"InfoNCE": 30.0, "GRIT": 34.0}
    rows = [
        row | ({"itm_retrieval_score": matched[row["arm"]] + row["seed"]} if row["arm"] in matched else {})
        for row in study_rows()
        if row["arm"] in ("InfoNCE", "GRIT", "S-ITC 0.3")
    ]
    table = tables(StudyTable(rows, ["InfoNCE", "GRIT", "S-ITC 0.3"]))[0]
    score, gain = list(table.columns).index("score by ITM") - 1, list(table.columns).index("gain by ITM") - 1
    cells = dict(table.rows)
    assert cells["GRIT"][gain].text == "+4.0" and cells["InfoNCE"][gain] == TextCell("\N{EN DASH}")
    assert float(cells["GRIT"][score].text) - float(cells["InfoNCE"][score].text) == 4.0
    assert cells["S-ITC 0.3"][score] == TextCell("\N{EN DASH}")


TABLE = TextTable(
    title="7 drawings",
    columns=["Arm", "gain"],
    rows=[("a|b", [TextCell("+1.0", "0.5 to 1.5")]), ("c", [TextCell("\N{EN DASH}")])],
)


def test_markdown():
    assert markdown(TABLE).splitlines() == [
        "## 7 drawings",
        "",
        "| Arm | gain |",
        "| --- | --- |",
        "| a\\|b | +1.0 (0.5 to 1.5) |",
        "| c | \N{EN DASH} |",
    ]


def test_the_file_names_command_machine_and_time(tmp_path):
    facts = [FactGroup(title="Study", facts={"Command": "truepair study x.yaml", "Training time": "12 minutes"})]
    path = write_markdown(tmp_path / "table.md", "A study", "Nine arms.", [TABLE], facts)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(
        "# A study\n\nNine arms.\n\n- Command: truepair study x.yaml\n- Training time: 12 minutes\n\n"
    )
    assert text.endswith("| c | \N{EN DASH} |\n")
