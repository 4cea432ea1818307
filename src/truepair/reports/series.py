"""Numbers of a run's log as lines of a plot."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from truepair.reports.data import Line

MOST_POINTS = 200

Records = Sequence[Mapping[str, Any]]


def number_names(records: Records, kind: str) -> list[str]:
    """Names of the numbers in the records of a kind, in order of appearance."""
    names: dict[str, None] = {}
    for record in records:
        if record["kind"] == kind:
            names |= {name: None for name, value in record.items() if isinstance(value, (int, float))}
    return [name for name in names if name not in ("step", "epoch")]


def step_line(records: Records, kind: str, name: str, title: str) -> list[Line]:
    """A number by step, thinned to 200 points by averaging neighbours; no line where it never occurs."""
    points = [(record["step"], record[name]) for record in _with(records, kind, name)]
    size = -(-len(points) // MOST_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    x = [sum(x for x, _ in group) / len(group) for group in groups]
    y = [sum(y for _, y in group) / len(group) for group in groups]
    return [Line(name=title, x=x, y=y)] if points else []


def epoch_line(records: Records, name: str, title: str) -> list[Line]:
    """A number by epoch, counted from 1 as the terminal does; no line where it never occurs."""
    found = _with(records, "epoch", name)
    x = [float(record["epoch"] + 1) for record in found]
    return [Line(name=title, x=x, y=[record[name] for record in found])] if found else []


def _with(records: Records, kind: str, name: str) -> Records:
    """Records of a kind that have a number, and a finite one."""
    return [record for record in records if record["kind"] == kind and math.isfinite(record.get(name, math.nan))]
