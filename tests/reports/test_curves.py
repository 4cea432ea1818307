import pytest

from truepair.reports import loss_plots, recall_plots


def steps(count, **values):
    return [{"kind": "step", "step": number, "epoch": 0, **values} for number in range(count)]


def test_one_plot_for_each_loss_and_one_line_for_each_run():
    plots = loss_plots({"a": steps(3, itm=0.6, loss=5.0, extra=1.0), "b": steps(3, loss=4.0)})
    assert [(plot.title, [line.name for line in plot.lines]) for plot in plots] == [
        ("Total loss", ["a", "b"]),
        ("ITM loss", ["a"]),
        ("extra", ["a"]),
    ]
    assert plots[0].lines[0].x == [0, 1, 2]
    assert plots[0].lines[1].y == [4.0, 4.0, 4.0]
    assert not plots[0].percent


def test_a_loss_that_starts_late():
    records = [*steps(2, loss=1.0), {"kind": "step", "step": 2, "epoch": 1, "loss": 1.0, "mlm": 7.0}]
    assert loss_plots({"a": records})[1].lines[0].x == [2]


def test_long_logs_are_thinned_by_averaging():
    records = [{"kind": "step", "step": number, "loss": float(number)} for number in range(1000)]
    line = loss_plots({"a": records})[0].lines[0]
    assert len(line.x) == 200
    assert line.x[0] == line.y[0] == pytest.approx(2.0)  # mean of 0..4
    assert line.x[-1] == pytest.approx(997.0)


def test_recall_by_metric_with_lines_by_run_and_direction():
    record = {"kind": "validation", "step": 10, "epoch": 0, "i2t_r@1": 0.5, "t2i_r@1": 0.4, "naive_t2i_r@1": 0.2}
    record["i2t_map@r"] = 0.3
    single = recall_plots({"a": [record]})
    assert [(plot.title, [line.name for line in plot.lines]) for plot in single] == [
        ("R@1", ["image to text", "text to image"]),
        ("R@1, own pair only", ["text to image"]),
        ("mAP@R", ["image to text"]),
    ]
    assert single[0].lines[1].y == [0.4]
    assert all(plot.percent for plot in single)
    double = recall_plots({"a": [record], "b": [record]})
    assert [line.name for line in double[0].lines][0::2] == ["a, image to text", "b, image to text"]


def test_no_records_no_plots():
    assert loss_plots({"a": []}) == recall_plots({"a": []}) == []
