"""Loss and recall curves from the log records of one or several runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from truepair.reports.data import Line, Plot

LOSS_TITLES = {
    "loss": "Total loss",
    "itc": "ITC loss",
    "itm": "ITM loss",
    "mlm": "MLM loss",
    "temperature": "Temperature",
}
METRIC_TITLES = {"r@1": "R@1", "r@5": "R@5", "r@10": "R@10", "map@r": "mAP@R"}
DIRECTION_TITLES = {"i2t": "image to text", "t2i": "text to image"}
MOST_POINTS = 200

Records = Sequence[Mapping[str, Any]]


def loss_plots(logs: Mapping[str, Records]) -> list[Plot]:
    """One plot for each quantity of the ``step`` records, one line for each run.

    Long logs are thinned to 200 points by averaging neighbours.

    Args:
        logs: name of each run -> its records, as ``read_log`` gives them.
    """
    names = _names(logs, "step")
    order = [name for name in LOSS_TITLES if name in names] + [name for name in names if name not in LOSS_TITLES]
    plots = []
    for name in order:
        lines = [Line(name=run, x=x, y=y) for run, records in logs.items() for x, y in [_series(records, "step", name)]]
        title = LOSS_TITLES.get(name, name)
        plots.append(Plot(title=title, x_label="step", lines=[line for line in lines if line.x]))
    return plots


def recall_plots(logs: Mapping[str, Records]) -> list[Plot]:
    """One plot for each metric of the ``validation`` records, one line for each run and direction.

    Figures are named ``i2t_r@1``, ``t2i_map@r`` and so on; those of the naive protocol (``naive_``) get plots of
    their own.

    Args:
        logs: name of each run -> its records, as ``read_log`` gives them.
    """
    lines: dict[str, list[Line]] = {}
    for run, records in logs.items():
        for name in _names({run: records}, "validation"):
            title, direction = _metric(name)
            x, y = _series(records, "validation", name)
            parts = [run] if len(logs) > 1 else []
            lines.setdefault(title, []).append(Line(name=", ".join([*parts, direction]), x=x, y=y))
    return [Plot(title=title, x_label="step", lines=found, percent=True) for title, found in lines.items()]


def _names(logs: Mapping[str, Records], kind: str) -> list[str]:
    """Names of the numbers in the records of a kind, in order of appearance."""
    names: dict[str, None] = {}
    for records in logs.values():
        for record in records:
            if record["kind"] == kind:
                names |= {name: None for name, value in record.items() if isinstance(value, (int, float))}
    return [name for name in names if name not in ("step", "epoch")]


def _series(records: Records, kind: str, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a number, thinned."""
    points = [(record["step"], record[name]) for record in records if record["kind"] == kind and name in record]
    size = -(-len(points) // MOST_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return (
        [sum(x for x, _ in group) / len(group) for group in groups],
        [sum(y for _, y in group) / len(group) for group in groups],
    )


def _metric(name: str) -> tuple[str, str]:
    """Plot title and direction of a figure such as ``naive_i2t_r@1``."""
    naive = name.startswith("naive_")
    direction, _, metric = name.removeprefix("naive_").partition("_")
    title = METRIC_TITLES.get(metric, metric)
    return f"{title}, own pair only" if naive else title, DIRECTION_TITLES.get(direction, direction)
