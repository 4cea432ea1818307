"""Tables for the terminal, readable in 80 columns."""

from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from truepair.display import visible
from truepair.evaluation.coco import CocoReport
from truepair.evaluation.metrics import DirectionMetrics, RetrievalMetrics
from truepair.evaluation.zero_shot import ZeroShotResult
from truepair.tasks.audit import Audit
from truepair.tasks.conversions import Conversions
from truepair.tasks.doctor.diagnosis import Diagnosis, Example
from truepair.tasks.downstream import FigureTable
from truepair.tasks.retrieval import RetrievalResult
from truepair.tasks.zero_shot import CLASS_MEAN, TOP_1, TOP_5, figures_of

FIGURES = ("R@1", "R@5", "R@10", "mAP@R")

ANY_MATCH, USUAL = "any true match", "usual protocol"

_WORST = 5  # classes that are listed


def retrieval_table(result: RetrievalResult) -> Table:
    """Both protocols under each other, for every way of ranking; one line where they say the same."""
    left_out = f"{result.unreadable:,} pictures that cannot be read are left out" if result.unreadable else None
    table = Table(title=_title(result), title_justify="left", caption=left_out, caption_justify="left")
    table.add_column("query", min_width=max(map(len, result.ways)))
    table.add_column("what counts")
    for name in FIGURES:
        table.add_column(name, justify="right", no_wrap=True)
    for way, metrics in result.ways.items():
        table.add_row(Text(way, "bold"))
        for query, direction, naive in _directions(metrics):
            protocols = ((USUAL, naive),) if metrics.protocols_agree else ((ANY_MATCH, direction), (USUAL, naive))
            for protocol, one in protocols:
                table.add_row(query, protocol, *_figures(one))
        table.add_section()
    return table


def comparison_table(arms: Mapping[str, RetrievalResult | None]) -> Table | None:
    """The same of several runs on one set, for every way of ranking and query one run under the other.

    Args:
        arms: name of each run -> its figures; None for a run whose data has no test split.

    Returns:
        The table; None without any figures.
    """
    results = {name: result for name, result in arms.items() if result is not None}
    if not results:
        return None
    table = Table(title=_title(next(iter(results.values()))), title_justify="left")
    table.add_column("run")
    table.add_column("query")
    # The last heading in two lines leaves 26 of 80 columns for the names of the runs.
    agree = all(metrics.protocols_agree for result in results.values() for metrics in result.ways.values())
    for name in FIGURES if agree else (*FIGURES, Text("usual\nR@1")):
        table.add_column(name, justify="right", no_wrap=True)
    ways = dict.fromkeys(way for result in results.values() for way in result.ways)
    for way in ways:
        measured = {name: result.ways[way] for name, result in results.items() if way in result.ways}
        table.add_row(Text(way, "bold"))
        for query, rows in _by_query(measured).items():
            for name, direction, naive in rows:
                usual = [] if agree else [f"{naive.recall_at_1.value:.1%}"]
                table.add_row(name, query, *_figures(direction), *usual)
        table.add_section()
    return table


def coco_table(way: str, report: CocoReport) -> Table:
    """One way of ranking under four notions of what is true."""
    table = Table(title=f"COCO, ranking by {way}", title_justify="left")
    for name in ("truth", "query", *FIGURES):
        table.add_column(name, justify="left" if name in ("truth", "query") else "right", no_wrap=True)
    recalls = {depth: report.recall_1k(depth) for depth in (1, 5, 10)}
    for side, query in enumerate(("picture", "caption")):
        table.add_row("COCO 1K", query, *(f"{recalls[depth][side]:.1%}" for depth in recalls), "")
    for name, metrics in (("COCO 5K", report.coco_5k), ("CxC", report.cxc), ("ECCV Caption", report.eccv)):
        for query, one in (("picture", metrics.i2t), ("caption", metrics.t2i)):
            figures = (one.recall_at_1, one.recall_at_5, one.recall_at_10, one.map_at_r)
            table.add_row(name, query, *(f"{figure.value:.1%}" for figure in figures))
    return table


def precision_table(audit: Audit) -> Table | str:
    """How many of the strongest suspected false negatives are true matches; a line where nothing is known of any."""
    if not any(found.judged for found in audit.precision):
        return (
            f"{len(audit.suspects):,} pairs of the training set are suspected false negatives by {audit.way}; no truth "
            "is known of them, so how many match is not stated: the page shows them"
        )
    reason = "" if audit.way == "ITM" else ": ITM was not trained"
    title = f"Suspected false negatives of the training set, ranked by {audit.way}{reason}"
    table = Table(title=title, title_justify="left")
    for name in ("first", "judged", "truly match", "precision"):
        table.add_column(name, justify="right")
    for found in audit.precision:
        table.add_row(str(found.depth), str(found.judged), str(found.true), _share(found.value))
    return table


def conversion_table(conversions: Mapping[str, Conversions]) -> Table:
    """How many undeclared pairs became positives, and how many of them truly match.

    Args:
        conversions: name of each run with a judge -> the pairs it converted.
    """
    table = Table(title="Pairs that the judge turned into positives", title_justify="left")
    table.add_column("run")
    for name in ("pairs", "judged", "true", "precision", "recall"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in conversions.items():
        counts = (f"{count:,}" for count in (len(found), found.judged, found.true))
        table.add_row(name, *counts, _share(found.precision), _share(found.recall))
    return table


def zero_shot_tables(result: ZeroShotResult, before: Mapping[str, float] | None = None) -> list[Table]:
    """Figures of zero-shot classification, and the classes that are recognised worst.

    Args:
        result: of a model.
        before: figures of the model before training, by their names in the log; None for a model alone.
    """
    prompts = f"{result.templates} prompt{'s' if result.templates > 1 else ''} a class"
    title = f"Zero-shot: {result.images:,} pictures of {result.data}, {result.classes:,} classes, {prompts}"
    left_out = f"; {result.unreadable:,} pictures that cannot be read are left out" if result.unreadable else ""
    interval = f"top-1 from {result.top_1.low:.1%} to {result.top_1.high:.1%} (95 %), chance {1 / result.classes:.1%}"
    table = Table(title=title, title_justify="left", caption=interval + left_out, caption_justify="left")
    table.add_column("model")
    for name in ("top-1", "top-5", "mean of classes"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = {"before training": before, "trained": figures_of(result)} if before else {"as it is": figures_of(result)}
    for name, figures in rows.items():
        shown = (figures.get(figure) for figure in (TOP_1, TOP_5, CLASS_MEAN))
        table.add_row(name, *("" if value is None else f"{value:.1%}" for value in shown))
    worst = Table(title="Classes recognised worst", title_justify="left")
    worst.add_column("class")
    for name in ("pictures", "top-1"):
        worst.add_column(name, justify="right", no_wrap=True)
    worst.add_column("mostly taken for")
    for figure in result.worst(_WORST):
        worst.add_row(figure.name, f"{figure.images:,}", f"{figure.top_1:.1%}", figure.taken_for or "")
    return [table, worst]


def figures_table(figures: FigureTable) -> Table:
    """The figures of a downstream task: names to the left, figures to the right."""
    table = Table(title=figures.title, title_justify="left")
    table.add_column(figures.columns[0])
    for name in figures.columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in figures.rows:
        table.add_row(*row)
    return table


def doctor_table(diagnosis: Diagnosis) -> Group:
    """What a source holds, and what is wrong with it, the worst first."""
    splits = ", ".join(f"{name} {count:,}" for name, count in diagnosis.table.splits.items())
    opened = "" if diagnosis.opened else "; pictures were not opened"
    negatives = diagnosis.false_negatives
    facts = [
        f"{len(diagnosis.table):,} rows ({splits}), {diagnosis.pictures:,} pictures, "
        f"{diagnosis.table.caption_count:,} captions{opened}",
        f"a batch of {negatives.batch:,} holds {negatives.certain:,.4g} false negatives for certain, pairs of the same "
        f"picture or text, among {negatives.cells:,}",
    ]
    if negatives.estimated is not None:
        facts.append(f"and {negatives.estimated:,.4g} by the estimate of {negatives.by}")
    table = Table(title="What was found", title_justify="left", box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in diagnosis.found:
        colour = _COLOURS[finding.weight]
        what = Text(visible(finding.what))
        what.append(f" (of {finding.of:,})" if finding.of else "", "dim").append(f"\n{visible(finding.remedy)}", "dim")
        if finding.examples:
            what.append(f"\nsuch as {_of_example(finding.examples[0])}", "dim")
        table.add_row(Text(f"{finding.count:,}", f"bold {colour}"), what)
    return Group(*facts, table if diagnosis.found else "nothing is wrong with them")


def _of_example(example: Example) -> str:
    """A case of a finding in a line: the names of its files, and what there is to say of it."""
    files = ", ".join(Path(file).name for file in example.files[:_FILES])
    more = f" and {len(example.files) - _FILES:,} more" if len(example.files) > _FILES else ""
    said = ": ".join(filter(None, [files + more, " ".join(example.text.split())]))
    return visible(said if len(said) <= _EXAMPLE else f"{said[:_EXAMPLE]}...")


_FILES = 3  # of an example

_EXAMPLE = 160  # characters

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


def _title(result: RetrievalResult) -> str:
    """What was measured."""
    captions = f"{result.own_captions:,} captions"
    if result.captions != result.own_captions:
        captions += f", {result.captions:,} distinct texts"
    return f"Retrieval on {result.source}, {result.split}: {result.images:,} pictures, {captions}"


def _figures(direction: DirectionMetrics) -> list[str]:
    """The cells of a row."""
    figures = (direction.recall_at_1, direction.recall_at_5, direction.recall_at_10, direction.map_at_r)
    return [f"{figure.value:.1%}" for figure in figures]


def _by_query(
    measured: Mapping[str, RetrievalMetrics],
) -> dict[str, list[tuple[str, DirectionMetrics, DirectionMetrics]]]:
    """Kind of query -> name, truth-aware and naive figures of each run."""
    rows: dict[str, list[tuple[str, DirectionMetrics, DirectionMetrics]]] = {}
    for name, metrics in measured.items():
        for query, direction, naive in _directions(metrics):
            rows.setdefault(query, []).append((name, direction, naive))
    return rows


def _directions(metrics: RetrievalMetrics) -> list[tuple[str, DirectionMetrics, DirectionMetrics]]:
    """Kind of query, truth-aware figures, naive figures."""
    return [
        ("picture", metrics.i2t, metrics.naive_i2t),
        ("caption", metrics.t2i, metrics.naive_t2i),
    ]


def _share(value: float | None) -> str:
    """A share in per cent, or that nobody knows it."""
    return "unknown" if value is None else f"{value:.1%}"
