import pytest

from truepair.reports import (
    batch_plots,
    conversion_plots,
    information_plots,
    interpolation_plots,
    loss_plots,
    recall_plots,
    zero_shot_plots,
)
from truepair.tasks.interpolation import InterpolationCurve, InterpolationPoint


def steps(count, **values):
    return [{"kind": "step", "step": number, "epoch": 0, **values} for number in range(count)]


def epochs(*records):
    return [{"kind": "epoch", "step": 10 * number, "epoch": number, **record} for number, record in enumerate(records)]


def shown(plots):
    return {plot.title: {line.name: (line.x, line.y) for line in plot.lines} for plot in plots}


def test_one_plot_for_each_loss_and_one_line_for_each_run():
    plots = loss_plots({"a": steps(3, itm=0.6, loss=5.0, gradient_norm=1.0, mi_positive=4.0), "b": steps(3, loss=4.0)})
    assert [(plot.title, [line.name for line in plot.lines]) for plot in plots] == [
        ("Total loss", ["a", "b"]),
        ("ITM loss", ["a"]),
    ]
    assert plots[0].lines[0].x == [0, 1, 2]
    assert plots[0].lines[1].y == [4.0, 4.0, 4.0]
    assert not plots[0].percent


def test_what_the_loss_learns_is_drawn_where_it_is_logged():
    plots = loss_plots({"a": steps(3, temperature=0.1, bias=-10.0), "b": steps(3, temperature=0.1)})
    lines = {plot.title: [line.name for line in plot.lines] for plot in plots}
    assert lines == {"Temperature": ["a", "b"], "Bias": ["a"]}


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
        ("R@1, usual protocol", ["text to image"]),
        ("mAP@R", ["image to text"]),
    ]
    assert single[0].lines[1].y == [0.4]
    assert all(plot.percent for plot in single)
    double = recall_plots({"a": [record], "b": [record]})
    assert [line.name for line in double[0].lines][0::2] == ["a, image to text", "b, image to text"]


def test_zero_shot_classification_from_before_the_first_step():
    figures = {"i2t_r@1": 0.5, "zero_shot_top1": 0.61, "zero_shot_class_mean": 0.6}
    records = [{"kind": "validation", "step": 0, "epoch": -1, **figures}]
    records.append({"kind": "validation", "step": 10, "epoch": 0, **figures, "zero_shot_top1": 0.4})
    assert shown(zero_shot_plots({"a": records})) == {
        "Zero-shot classification": {"top-1": ([0, 10], [0.61, 0.4]), "mean of classes": ([0, 10], [0.6, 0.6])}
    }
    assert list(shown(zero_shot_plots({"a": records, "b": records}))["Zero-shot classification"])[0::2] == [
        "a, top-1",
        "b, top-1",
    ]
    assert list(shown(recall_plots({"a": records}))) == ["R@1"]


def test_figures_between_start_and_trained_model():
    figures = {"i2t_r@1": 0.5, "naive_i2t_r@1": 0.4, "zero_shot_top1": 0.6}
    points = [InterpolationPoint(0.0, figures), InterpolationPoint(0.5, {**figures, "zero_shot_top1": 0.7})]
    curve = InterpolationCurve(points, 0.5)
    assert shown(interpolation_plots({"a": curve})) == {
        "Between the start and the trained model": {
            "R@1, image to text": ([0, 50], [0.5, 0.5]),
            "zero-shot top-1": ([0, 50], [0.6, 0.7]),
        }
    }
    assert len(interpolation_plots({"a": curve, "b": curve})) == 2
    assert interpolation_plots({"a": InterpolationCurve([InterpolationPoint(0.5, {})], 1.0)}) == []


def test_information_of_each_run_that_logged_it():
    records = steps(2, mi_positive=4.0, mi_negative=-9.0, mi_bound=4.0)
    assert shown(information_plots({"a": records, "b": steps(2, loss=1.0)})) == {
        "Mutual information (nats), a": {"positives": ([0, 1], [4.0, 4.0]), "negatives": ([0, 1], [-9.0, -9.0])}
    }
    assert information_plots({"a": records})[0].title == "Mutual information (nats)"


def test_numbers_that_are_not_finite_are_left_out():
    records = [*steps(1, mi_negative=float("-inf")), {"kind": "step", "step": 7, "mi_negative": -2.0}]
    assert information_plots({"a": records})[0].lines[0].x == [7]
    assert information_plots({"a": steps(3, mi_negative=float("nan"))}) == []


def test_batches_by_epoch_counted_from_one():
    hard = epochs(*({"hardest_similarity": s, "false_negative_rate": s / 10} for s in (0.3, 0.6)))
    for record in hard:
        record["random_false_negative_rate"] = 0.01
    logs = {"plain": epochs({"random_false_negative_rate": 0.01, "false_negative_rate": 0.011}), "grouped": hard}
    learned = {"hardness_quantile": 0.9, "hardness_quantile_p10": 0.8, "hardness_quantile_p90": 0.95}
    assert shown(batch_plots({"falcon": epochs({}, learned)})) == {
        "Learned hardness: quantile of a walk's steps": {
            "mean": ([2], [0.9]),
            "first tenth": ([2], [0.8]),
            "last tenth": ([2], [0.95]),
        }
    }
    assert shown(batch_plots(logs)) == {
        "Hardest in-batch negative: similarity": {"grouped": ([1, 2], [0.3, 0.6])},
        "False-negative rate of batches, and of random ones": {
            "plain": ([1], [0.011]),
            "grouped": ([1, 2], [0.03, 0.06]),
            "random batches on average": ([1], [0.01]),
        },
    }


def test_conversions_of_the_runs_that_have_a_judge():
    known = {"ecm/conversions_converted": 5.0, "ecm/conversions_right": 4.0, "ecm/all/above": 6.0}
    managed = epochs({**known, "ecm/conversion_precision": 0.8}, known)
    assert shown(conversion_plots({"plain": epochs({}), "managed": managed})) == {
        "Conversions in an epoch": {"pairs converted": ([1, 2], [5.0, 5.0]), "of them true": ([1, 2], [4.0, 4.0])},
        "Conversions: precision and recall": {"precision": ([1], [0.8])},
    }
    blind = conversion_plots({"a": epochs({"ecm/i2t/above": 3.0}), "b": managed})
    ruled = shown(conversion_plots({"a": epochs({"relations/judge/relabel": 7.0})}))
    assert ruled == {"Conversions in an epoch": {"pairs converted by a rule": ([1], [7.0])}}
    assert shown(blind)["Conversions in an epoch, a"] == {"captions of a picture converted": ([1], [3.0])}


@pytest.mark.parametrize(
    "plots", [loss_plots, information_plots, recall_plots, zero_shot_plots, batch_plots, conversion_plots]
)
def test_no_records_no_plots(plots):
    assert plots({"a": []}) == []
