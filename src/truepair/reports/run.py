"""The page of one run or several."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from truepair.engine.logs.log import read_log
from truepair.reports.cards import PictureBook, ShownExamples, converted_pairs, show_examples, suspect_cards
from truepair.reports.curves import (
    Records,
    batch_plots,
    conversion_plots,
    information_plots,
    interpolation_plots,
    loss_plots,
    recall_plots,
    zero_shot_plots,
)
from truepair.reports.data import Plot, ReportData
from truepair.reports.facts import data_facts, machine_facts, run_facts, run_summary
from truepair.reports.page import write_report
from truepair.reports.results import key_figures, result_table
from truepair.tasks.audit import Audit, audit_pairs
from truepair.tasks.conversions import Conversions, read_conversions
from truepair.tasks.pretraining import PretrainOutcome


@dataclass(frozen=True)
class ReportedRun:
    """A finished run.

    Attributes:
        outcome: what it left in memory.
        folder: where its ``log.jsonl`` and, if a judge was asked, its ``ledger/`` lie.
    """

    outcome: PretrainOutcome
    folder: Path


@dataclass(frozen=True)
class RunReport:
    """A written report.

    Attributes:
        page: the HTML file.
        audit: the suspected false negatives of the first run.
        conversions: name of each run with a judge -> the pairs that became positives.
    """

    page: Path
    audit: Audit
    conversions: Mapping[str, Conversions]


def report_run(outcome: PretrainOutcome, run_folder: Path, *, command: str, title: str = "A truepair run") -> RunReport:
    """The page of a single run, in its own folder; see :func:`report_runs`."""
    return report_runs({"run": ReportedRun(outcome, run_folder)}, run_folder, command=command, title=title)


def report_runs(
    arms: Mapping[str, ReportedRun], folder: Path, *, command: str, title: str = "A truepair run"
) -> RunReport:
    """Compare finished runs on the same data in one page, ``report.html``.

    The suspected false negatives are those of the first run, which should be the one without management; the examples
    and the figures at the top are those of the last.

    Args:
        arms: name of each run -> the run; one or more.
        folder: where the page goes.
        command: what reproduces it all.
        title: heading of the page.

    Raises:
        DataError: a run's ledger does not fit its data.
    """
    first, last = next(iter(arms)), list(arms)[-1]
    several = len(arms) > 1
    outcomes = {name: run.outcome for name, run in arms.items()}
    audit = audit_pairs(outcomes[first].model, outcomes[first].collator, outcomes[first].train_images)
    train = outcomes[first].train_images.table
    logs = {name: read_log(run.folder / "log.jsonl") for name, run in arms.items()}
    conversions = _conversions(arms, logs)
    results = {name: outcome.retrieval for name, outcome in outcomes.items() if outcome.retrieval is not None}
    book = PictureBook()
    examples = _examples(outcomes[last], book)
    suspects = suspect_cards(train, audit.suspects, book)
    converted = [
        converted_pairs(name if several else "", outcomes[name].train_images.table, of_run, book)
        for name, of_run in conversions.items()
    ]
    left_out = outcomes[first].left_out
    left_out.of_page([*((train, row, why) for row, why in audit.unreadable.items()), *book.unreadable])
    page = ReportData(
        title=title,
        summary=run_summary(len(train), results, audit, conversions),
        key_figures=key_figures(
            {name: result.best for name, result in results.items()}, audit.precision, conversions, suspects_by=audit.way
        ),
        results=result_table({name: result.ways for name, result in results.items()}) if results else None,
        plots=_plots(logs, outcomes),
        examples_of=last if several else "",
        caption_queries=examples.captions,
        picture_queries=examples.pictures,
        suspects_of=first if several else "",
        suspects_by=audit.way,
        suspects=suspects,
        precision=list(audit.precision),
        converted=converted,
        facts=[
            data_facts(outcomes[first], command),
            *(run_facts(f"Run: {name}" if several else "Run", one, logs[name]) for name, one in outcomes.items()),
            machine_facts(),
        ],
        pictures=book.uris,
    )
    return RunReport(write_report(page, folder / "report.html"), audit, conversions)


def _examples(outcome: PretrainOutcome, book: PictureBook) -> ShownExamples:
    """Examples of the test split, where there is one."""
    if outcome.test is None or outcome.retrieval is None:
        return ShownExamples()
    return show_examples(outcome.test, outcome.retrieval, book)


def _conversions(arms: Mapping[str, ReportedRun], logs: Mapping[str, Records]) -> dict[str, Conversions]:
    """What the judges of the runs converted; a run without a judge is left out."""
    by_run = {
        name: read_conversions(run.folder, run.outcome.train_images.table, logs[name], run.outcome.recipe)
        for name, run in arms.items()
    }
    return {name: conversions for name, conversions in by_run.items() if conversions is not None}


def _plots(logs: Mapping[str, Records], outcomes: Mapping[str, PretrainOutcome]) -> list[Plot]:
    """All curves, the result first."""
    curves = {name: outcome.interpolation for name, outcome in outcomes.items() if outcome.interpolation is not None}
    return [
        *recall_plots(logs),
        *zero_shot_plots(logs),
        *interpolation_plots(curves),
        *loss_plots(logs),
        *information_plots(logs),
        *batch_plots(logs),
        *conversion_plots(logs),
    ]
