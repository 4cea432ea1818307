"""The report of a pre-training run, put together from what the run left behind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truepair.data.table import PairTable
from truepair.reports.curves import loss_plots, recall_plots
from truepair.reports.data import (
    CaptionAnswer,
    CaptionQuery,
    FactGroup,
    PictureAnswer,
    PictureQuery,
    ReportData,
    SuspectCard,
)
from truepair.reports.machine import machine_facts
from truepair.reports.page import write_report
from truepair.reports.pictures import PictureBook
from truepair.reports.results import key_figures, percent, result_table
from truepair.tasks.audit import Audit, AuditedSuspect, audit_pairs
from truepair.tasks.examples import Example, draw_examples
from truepair.tasks.pretraining import PretrainOutcome
from truepair.tasks.retrieval import RetrievalResult, RetrievalTask, similarity_of
from truepair.training.run_log import read_log

SHOWN_SUSPECTS = 200


@dataclass(frozen=True)
class RunReport:
    """A written report.

    Attributes:
        page: the HTML file.
        audit: the suspected false negatives it shows.
    """

    page: Path
    audit: Audit


def report_run(outcome: PretrainOutcome, run_folder: Path, *, command: str, title: str = "A truepair run") -> RunReport:
    """Audit the training pairs of a finished run, and write ``report.html`` into its folder.

    Args:
        outcome: the run.
        run_folder: where its log lies and the page goes.
        command: what reproduces it.
        title: heading of the page.
    """
    audit = audit_pairs(outcome.model, outcome.collator, outcome.train_images)
    train = outcome.train_images.table
    book = PictureBook()
    logs = {"run": read_log(run_folder / "log.jsonl")}
    examples = _Examples() if outcome.test is None else _draw(outcome, outcome.test, book)
    result = outcome.retrieval
    page = ReportData(
        title=title,
        summary=_summary(len(train), result, audit),
        key_figures=[] if result is None else key_figures(result.best, audit.precision),
        results=None if result is None else result_table({"run": result.ways}),
        plots=[*loss_plots(logs), *recall_plots(logs)],
        caption_queries=examples.captions,
        picture_queries=examples.pictures,
        suspects=[_suspect(train, item, book) for item in audit.suspects[:SHOWN_SUSPECTS]],
        precision=list(audit.precision),
        facts=[_facts(outcome, command), machine_facts()],
        pictures=book.uris,
    )
    return RunReport(write_report(page, run_folder / "report.html"), audit)


@dataclass(frozen=True)
class _Examples:
    pictures: Sequence[PictureQuery] = ()
    captions: Sequence[CaptionQuery] = ()


def _draw(outcome: PretrainOutcome, task: RetrievalTask, book: PictureBook) -> _Examples:
    """Examples of the test split, ranked by what uses the most of the model."""
    judge = task.encode(outcome.model)
    combination = None if outcome.retrieval is None else outcome.retrieval.combination
    ranking = list(task.rankings(judge, combination).values())[-1]
    drawn = draw_examples(task, similarity_of(judge), ranking)
    table, texts = task.images.table, task.gallery.texts
    return _Examples(
        [_picture_query(table, texts, example, book) for example in drawn.pictures],
        [_caption_query(table, texts, example, book) for example in drawn.captions],
    )


def _picture_query(table: PairTable, texts: Sequence[str], example: Example, book: PictureBook) -> PictureQuery:
    answers = [
        CaptionAnswer(caption=texts[answer.number], score=f"{answer.similarity:.2f}", mark=answer.mark)
        for answer in example.answers
    ]
    picture = book.add(table.image(example.query))
    return PictureQuery(picture=picture, caption=_caption(table, example.query), answers=answers)


def _caption_query(table: PairTable, texts: Sequence[str], example: Example, book: PictureBook) -> CaptionQuery:
    answers = [
        PictureAnswer(
            picture=book.add(table.image(answer.number)),
            caption=_caption(table, answer.number),
            score=f"{answer.similarity:.2f}",
            mark=answer.mark,
        )
        for answer in example.answers
    ]
    return CaptionQuery(caption=texts[example.query], answers=answers)


def _suspect(train: PairTable, item: AuditedSuspect, book: PictureBook) -> SuspectCard:
    suspect = item.suspect
    return SuspectCard(
        picture=book.add(train.image(suspect.image)),
        own_caption=_caption(train, suspect.image),
        caption=_caption(train, suspect.caption),
        caption_picture=book.add(train.image(suspect.caption)),
        probability=suspect.probability,
        verdict=item.verdict,
    )


def _caption(table: PairTable, row: int) -> str:
    caption: str = table.rows[row]["captions"][0]
    return caption


def _summary(pairs: int, result: RetrievalResult | None, audit: Audit) -> str:
    parts = [f"A model was trained on {pairs:,} image-text pairs"]
    if result is not None:
        best = result.best
        parts.append(
            f"it finds a right caption for {percent(best.i2t.recall_at_1.value)} of {result.images:,} pictures it "
            f"never saw, and a right picture for {percent(best.t2i.recall_at_1.value)} of the captions"
        )
    judged = [found for found in audit.precision if found.value is not None]
    if judged:
        found = judged[0]
        parts.append(
            f"of the {found.depth} undeclared training pairs it most takes for matches, {found.true} truly match"
        )
    return "; ".join(parts) + "."


def _facts(outcome: PretrainOutcome, command: str) -> FactGroup:
    run = outcome.run
    parameters = sum(p.numel() for p in outcome.model.parameters())
    trained = sum(p.numel() for p in outcome.model.parameters() if p.requires_grad)
    facts: Mapping[str, Any] = {
        "Command": command,
        "Training pairs": f"{len(outcome.train_images.table):,} from {outcome.train_images.table.name}",
        "Model": f"{parameters / 1e6:.1f} M parameters, {trained / 1e6:.1f} M of them trained",
        "Steps": f"{run.steps:,}",
        "Training time": f"{run.seconds:.0f} s, {run.pairs_per_second:.0f} pairs/s",
        "Unreadable samples replaced": str(run.substituted),
    }
    return FactGroup(title="Run", facts=dict(facts))
