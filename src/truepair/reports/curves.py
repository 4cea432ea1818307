"""Curves by step: losses, mutual information and recall, from the log records of one or several runs."""

from collections.abc import Mapping

from truepair.reports.data import Line, Plot
from truepair.reports.series import Records, number_names, step_line

LOSS_TITLES = {
    "loss": "Total loss",
    "itc": "ITC loss",
    "itm": "ITM loss",
    "mlm": "MLM loss",
    "temperature": "Temperature",
}
INFORMATION_TITLES = {
    "mi_positive": "positives",
    "mi_negative": "negatives",
    "mi_false_negative": "false negatives",
}
METRIC_TITLES = {"r@1": "R@1", "r@5": "R@5", "r@10": "R@10", "map@r": "mAP@R"}
DIRECTION_TITLES = {"i2t": "image to text", "t2i": "text to image"}


def loss_plots(logs: Mapping[str, Records]) -> list[Plot]:
    """One plot for each loss that was trained and one for the temperature, one line for each run.

    Args:
        logs: name of each run -> its records, as ``read_log`` gives them.
    """
    plots = []
    for name, title in LOSS_TITLES.items():
        lines = [line for run, records in logs.items() for line in step_line(records, "step", name, run)]
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
        lines = [line for name, title in INFORMATION_TITLES.items() for line in step_line(records, "step", name, title)]
        if lines:
            of_run = f", {run}" if len(logs) > 1 else ""
            plots.append(Plot(title=f"Mutual information (nats){of_run}", x_label="step", lines=lines))
    return plots


def recall_plots(logs: Mapping[str, Records]) -> list[Plot]:
    """One plot for each metric of the ``validation`` records, one line for each run and direction.

    Figures are named ``i2t_r@1``, ``t2i_map@r`` and so on; those of the naive protocol (``naive_``) get plots of
    their own.

    Args:
        logs: name of each run -> its records.
    """
    lines: dict[str, list[Line]] = {}
    for run, records in logs.items():
        for name in number_names(records, "validation"):
            title, direction = _metric(name)
            parts = [run] if len(logs) > 1 else []
            found = step_line(records, "validation", name, ", ".join([*parts, direction]))
            lines.setdefault(title, []).extend(found)
    return [Plot(title=title, x_label="step", lines=found, percent=True) for title, found in lines.items() if found]


def _metric(name: str) -> tuple[str, str]:
    """Plot title and direction of a figure such as ``naive_i2t_r@1``."""
    naive = name.startswith("naive_")
    direction, _, metric = name.removeprefix("naive_").partition("_")
    title = METRIC_TITLES.get(metric, metric)
    return f"{title}, own pair only" if naive else title, DIRECTION_TITLES.get(direction, direction)
