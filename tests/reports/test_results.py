from dataclasses import replace

from tests.reports.samples import metrics
from truepair.evaluation import precision_at
from truepair.reports import ReportData, key_figures, render_report, result_table


def test_columns_nest_way_arm_and_protocol_with_the_last_way_first():
    table = result_table({"a": {"similarity": metrics(0.4), "ITM": metrics(0.5)}, "b": {"similarity": metrics(0.6)}})
    assert [(c.arm, c.way, c.naive) for c in table.columns] == [
        ("a", "ITM", False),
        ("a", "ITM", True),
        ("a", "similarity", False),
        ("a", "similarity", True),
        ("b", "similarity", False),
        ("b", "similarity", True),
    ]


def test_protocols_that_agree_are_one_column():
    given = metrics(0.6)
    same = replace(given, naive_i2t=given.i2t, naive_t2i=given.t2i)
    table = result_table({"a": {"similarity": same}, "b": {"similarity": same}})
    assert [(column.arm, column.naive) for column in table.columns] == [("a", False), ("b", False)]
    assert all(len(row.cells) == 2 for block in table.blocks for row in block.rows)
    page = render_report(ReportData(title="t", summary="s", results=table))
    assert page.count(">usual protocol</th>") == 2 and ">any true match</th>" not in page
    both = result_table({"a": {"similarity": same}, "b": {"similarity": given}})
    assert len(both.columns) == 4


def test_cells_are_those_of_the_metrics():
    given = metrics(0.6)
    table = result_table({"a": {"similarity": given}})
    images, captions = ({row.metric: row.cells for row in block.rows} for block in table.blocks)
    assert images["R@1"] == [given.i2t.recall_at_1, given.naive_i2t.recall_at_1]
    assert captions["mAP@R"] == [given.t2i.map_at_r, given.naive_t2i.map_at_r]
    assert [cell.value for cell in captions["Queries"]] == [400, 400]
    assert images["R@1 by chance"][0].value == given.i2t.chance_recall_at_1


def test_key_figures_name_the_first_judged_precision():
    figures = key_figures({"run": metrics(0.5)}, precision_at([None, True, False, True], depths=(1, 4)))
    assert [figure.label for figure in figures] == ["Image to text R@1", "Text to image R@1", "mAP@R", "Precision at 4"]
    assert figures[0].value == "50.0\N{NO-BREAK SPACE}%"
    assert figures[0].note == "any true caption counts"
    assert figures[3].value == "66.7\N{NO-BREAK SPACE}%"
    assert len(key_figures({"run": metrics(0.5)})) == 3
    assert key_figures({}) == []
    by_similarity = key_figures({}, precision_at([True]), suspects_by="similarity")
    assert "suspected by similarity, 1 of 1" in by_similarity[0].note


def test_key_figures_of_the_last_run_stand_beside_those_of_the_others():
    runs = {"plain": metrics(0.5), "managed": metrics(0.4)}
    figures = key_figures(runs, conversions={"managed": range(1234)})
    assert [figure.value for figure in figures] == [
        "40.0\N{NO-BREAK SPACE}%",
        "20.0\N{NO-BREAK SPACE}%",
        "24.0\N{NO-BREAK SPACE}%",
        "1,234",
    ]
    assert figures[0].note == "managed; 50.0\N{NO-BREAK SPACE}% plain; any true caption counts"
    assert figures[3].label == "Converted pairs"
    assert figures[3].note.endswith("in the run \N{LEFT DOUBLE QUOTATION MARK}managed\N{RIGHT DOUBLE QUOTATION MARK}")
    assert key_figures({"run": metrics(0.5)}, conversions={"run": range(2)})[3].note.endswith("became positives")
