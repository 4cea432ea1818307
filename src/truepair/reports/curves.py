"""Curves of a run's log: losses, information, recall, batches and conversions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from truepair.reports.data import Line, Plot
from truepair.tasks.interpolation import InterpolationCurve

Records = Sequence[Mapping[str, Any]]


_LOSS_TITLES = {
    "loss": "Total loss",
    "itc": "ITC loss",
    "itm": "ITM loss",
    "mlm": "MLM loss",
    "temperature": "Temperature",
    "bias": "Bias",
}


_INFORMATION_TITLES = {
    "mi_positive": "positives",
    "mi_negative": "negatives",
    "mi_false_negative": "false negatives",
}


_METRIC_TITLES = {"r@1": "R@1", "r@5": "R@5", "r@10": "R@10", "map@r": "mAP@R"}


_DIRECTION_TITLES = {"i2t": "image to text", "t2i": "text to image"}


_ZERO_SHOT = "zero_shot_"


_ZERO_SHOT_TITLES = {"top1": "top-1", "top5": "top-5", "class_mean": "mean of classes"}


_COUNT_TITLES = {
    "ecm/conversions_batch_true": "false negatives in batches",
    "ecm/conversions_converted": "pairs converted",
    "ecm/conversions_right": "of them true",
}


_ZONE_TITLES = {  # all that is counted where the truth is not known
    "ecm/all/above": "pairs converted",
    "relations/judge/relabel": "pairs converted by a rule",
    "relations/con_d/relabel": "pairs converted by a rule",  # as version 1 logged it
    "ecm/i2t/above": "captions of a picture converted",
    "ecm/t2i/above": "pictures of a caption converted",
}


_SHARE_TITLES = {"ecm/conversion_precision": "precision", "ecm/conversion_recall": "recall"}


_MOST_POINTS = 200


def loss_plots(logs: Mapping[str, Records]) -> list[Plot]:
    """One plot for each loss that was trained and one each for temperature and bias, one line for each run.

    Args:
        logs: name of each run -> its records, as ``read_log`` gives them.
    """
    plots = []
    for name, title in _LOSS_TITLES.items():
        lines = [line for run, records in logs.items() for line in _step_line(records, "step", name, run)]
        if lines:
            plots.append(Plot(title=title, x_label="step", lines=lines))
    return plots


def information_plots(logs: Mapping[str, Records]) -> list[Plot]:
    """What each run's features keep of pairs: bounds on mutual information, one plot for each run that logged them.

    Args:
        logs: name of each run -> its records.
    """
    plots = []
    for run, records in logs.items():
        lines = [
            line for name, title in _INFORMATION_TITLES.items() for line in _step_line(records, "step", name, title)
        ]
        if lines:
            of_run = f", {run}" if len(logs) > 1 else ""
            plots.append(Plot(title=f"Mutual information (nats){of_run}", x_label="step", lines=lines))
    return plots


def recall_plots(logs: Mapping[str, Records]) -> list[Plot]:
    """One plot for each metric of the ``validation`` records, one line for each run and direction.

    Figures are named ``i2t_r@1``, ``t2i_map@r`` and so on; those of the usual protocol (``naive_``) get plots of
    their own, unless they say the same.

    Args:
        logs: name of each run -> its records.
    """
    lines: dict[str, list[Line]] = {}
    for run, records in logs.items():
        for name in (name for name in _number_names(records, "validation") if not name.startswith(_ZERO_SHOT)):
            title, direction = _metric(name)
            parts = [run] if len(logs) > 1 else []
            line = _step_line(records, "validation", name, ", ".join([*parts, direction]))
            lines.setdefault(title, []).extend(line)
    distinct = {title: drawn for title, drawn in lines.items() if drawn and drawn != lines.get(_any_match(title))}
    return [Plot(title=title, x_label="step", lines=drawn, percent=True) for title, drawn in distinct.items()]


def task_plots(records: Records) -> list[Plot]:
    """The validation figures of a task of questions or statements about images: one plot, a line for each.

    Args:
        records: of the run, as ``read_log`` gives them.
    """
    names = _number_names(records, "validation")
    lines = [line for name in names for line in _step_line(records, "validation", name, name)]
    return [Plot(title="Validation", x_label="step", lines=lines, percent=True)] if lines else []


def zero_shot_plots(logs: Mapping[str, Records]) -> list[Plot]:
    """What each run made of zero-shot classification, from before its first step on: one plot, a line for each figure.

    Args:
        logs: name of each run -> its records.
    """
    lines = []
    for run, records in logs.items():
        for name, title in _ZERO_SHOT_TITLES.items():
            lines += _step_line(records, "validation", _ZERO_SHOT + name, f"{run}, {title}" if len(logs) > 1 else title)
    return [Plot(title="Zero-shot classification", x_label="step", lines=lines, percent=True)] if lines else []


def interpolation_plots(curves: Mapping[str, InterpolationCurve]) -> list[Plot]:
    """Validation figures of the models between start and end, one plot for each run that measured them.

    Args:
        curves: name of each run -> its curve.
    """
    plots = []
    for run, curve in curves.items():
        names = [name for name in (curve.points[0].figures if curve.points else {}) if not name.startswith("naive_")]
        x = [100 * point.alpha for point in curve.points]
        lines = [
            Line(name=_figure_title(name), x=x, y=[point.figures[name] for point in curve.points]) for name in names
        ]
        if lines:
            of_run = f", {run}" if len(curves) > 1 else ""
            title = f"Between the start and the trained model{of_run}"
            plots.append(Plot(title=title, x_label="trained weights (%)", lines=lines, percent=True))
    return plots


def batch_plots(logs: Mapping[str, Records]) -> list[Plot]:
    """How hard the batches were, where that was learned, and how many partners show the same, as far as logged.

    Args:
        logs: name of each run -> its records, as ``read_log`` gives them.
    """
    hardest = [line for run, records in logs.items() for line in _epoch_line(records, "hardest_similarity", run)]
    rates = [line for run, records in logs.items() for line in _epoch_line(records, "false_negative_rate", run)]
    chance: list[Line] = []
    for records in logs.values():  # runs on the same data have the same line
        expected = _epoch_line(records, "random_false_negative_rate", "random batches on average")
        chance += [line for line in expected if line.y[0] not in [known.y[0] for known in chance]]
    plots = []
    if hardest:
        plots.append(Plot(title="Hardest in-batch negative: similarity", x_label="epoch", lines=hardest))
    quantiles = _quantile_lines(logs)
    if quantiles:
        plots.append(Plot(title="Learned hardness: quantile of a walk's steps", x_label="epoch", lines=quantiles))
    if rates:
        title = "False-negative rate of batches, and of random ones"
        plots.append(Plot(title=title, x_label="epoch", lines=rates + chance, percent=True))
    return plots


def _quantile_lines(logs: Mapping[str, Records]) -> list[Line]:
    """Mean, first and last tenth of the quantiles that each run's learned hardness drew."""
    lines = []
    for run, records in logs.items():
        of_run = f", {run}" if len(logs) > 1 else ""
        for suffix, title in (("", "mean"), ("_p10", "first tenth"), ("_p90", "last tenth")):
            lines += _epoch_line(records, f"hardness_quantile{suffix}", f"{title}{of_run}")
    return lines


def conversion_plots(logs: Mapping[str, Records]) -> list[Plot]:
    """How many pairs each run's judge converted in an epoch, and, where truth is known, how well it chose.

    Counts are of meetings in a batch: a pair that meets again counts again.

    Args:
        logs: name of each run -> its records.
    """
    managed = {run: records for run, records in logs.items() if _lines(records, _COUNT_TITLES | _ZONE_TITLES)}
    plots = []
    for run, records in managed.items():
        of_run = f", {run}" if len(managed) > 1 else ""
        counts = _lines(records, _COUNT_TITLES) or _lines(records, _ZONE_TITLES)
        plots.append(Plot(title=f"Conversions in an epoch{of_run}", x_label="epoch", lines=counts))
        shares = _lines(records, _SHARE_TITLES)
        if shares:
            title = f"Conversions: precision and recall{of_run}"
            plots.append(Plot(title=title, x_label="epoch", lines=shares, percent=True))
    return plots


_USUAL = ", usual protocol"


def _any_match(title: str) -> str:
    """The title of the plot beside one of the usual protocol; empty for any other."""
    return title.removesuffix(_USUAL) if title.endswith(_USUAL) else ""


def _metric(name: str) -> tuple[str, str]:
    """Plot title and direction of a figure such as ``naive_i2t_r@1``."""
    naive = name.startswith("naive_")
    direction, _, metric = name.removeprefix("naive_").partition("_")
    title = _METRIC_TITLES.get(metric, metric)
    return f"{title}{_USUAL}" if naive else title, _DIRECTION_TITLES.get(direction, direction)


def _figure_title(name: str) -> str:
    """A validation figure in words."""
    if name.startswith(_ZERO_SHOT):
        return f"zero-shot {_ZERO_SHOT_TITLES[name.removeprefix(_ZERO_SHOT)]}"
    title, direction = _metric(name)
    return f"{title}, {direction}"


def _lines(records: Records, titles: Mapping[str, str]) -> list[Line]:
    """A line for each of some numbers that the epochs of a run have."""
    return [line for name, title in titles.items() for line in _epoch_line(records, name, title)]


def _number_names(records: Records, kind: str) -> list[str]:
    """Names of the numbers in the records of a kind, in order of appearance."""
    names: dict[str, None] = {}
    for record in records:
        if record["kind"] == kind:
            names |= {name: None for name, value in record.items() if isinstance(value, (int, float))}
    return [name for name in names if name not in ("step", "epoch")]


def _step_line(records: Records, kind: str, name: str, title: str) -> list[Line]:
    """A number by step, thinned to 200 points by averaging neighbours; no line where it never occurs."""
    points = [(record["step"], record[name]) for record in _records_with(records, kind, name)]
    size = -(-len(points) // _MOST_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    x = [sum(x for x, _ in group) / len(group) for group in groups]
    y = [sum(y for _, y in group) / len(group) for group in groups]
    return [Line(name=title, x=x, y=y)] if points else []


def _epoch_line(records: Records, name: str, title: str) -> list[Line]:
    """A number by epoch, counted from 1 as the terminal does; no line where it never occurs."""
    known = _records_with(records, "epoch", name)
    x = [float(record["epoch"] + 1) for record in known]
    return [Line(name=title, x=x, y=[record[name] for record in known])] if known else []


def _records_with(records: Records, kind: str, name: str) -> Records:
    """Records of a kind that have a number, and a finite one."""
    return [record for record in records if record["kind"] == kind and _is_finite(record.get(name))]


def _is_finite(value: Any) -> bool:
    """Whether a value of the log is a number: what was not finite is null."""
    return isinstance(value, int | float) and math.isfinite(value)
