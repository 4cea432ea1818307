"""What a report page shows, as plain typed data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from truepair.evaluation import Estimate, SuspectPrecision
from truepair.evaluation.truth import Mark, Verdict


@dataclass(frozen=True, kw_only=True)
class ConvertedCard:
    """A converted pair: a picture and the caption of another picture, which the judge took for a match.

    Attributes:
        picture: key of the picture.
        own_caption: the caption it was declared with.
        caption: the caption that became true of it too.
        caption_picture: key of the picture that caption was declared with.
        score: the judge's match probability, between 0 and 1.
        epoch: when it was first converted, from 1.
        verdict: what the known truth says.
    """

    picture: str
    own_caption: str
    caption: str
    caption_picture: str
    score: float
    epoch: int
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class ConvertedPairs:
    """The converted pairs of one run.

    Attributes:
        run: its name; empty for the only one.
        count: distinct pairs.
        judged: of how many the truth is known.
        true: how many of these match.
        recall: of the false negatives that met in a batch, the share that was converted; None where not known.
        cards: pairs drawn at random.
    """

    run: str
    count: int
    judged: int
    true: int
    recall: float | None
    cards: list[ConvertedCard]

    @property
    def precision(self) -> float | None:
        """Share of matches among the pairs whose truth is known; None if it is known of none."""
        return self.true / self.judged if self.judged else None


@dataclass(frozen=True, kw_only=True)
class KeyFigure:
    """A number for the top of the page.

    Attributes:
        label: what it is.
        value: the number as text, with its unit.
        note: one line of context.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ResultColumn:
    """A column of the table of results.

    Attributes:
        arm: name of the training run.
        way: way of ranking, such as similarity alone or with ITM.
        naive: the usual protocol, where only the own pair counts; otherwise any true match does.
    """

    arm: str
    way: str
    naive: bool


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """A row of the table of results.

    Attributes:
        metric: its name.
        kind: a share between 0 and 1, a rank from 1, or a count.
        cells: one figure a column.
    """

    metric: str
    kind: Literal["share", "rank", "count"]
    cells: list[Estimate]


@dataclass(frozen=True, kw_only=True)
class ResultBlock:
    """The rows of one direction.

    Attributes:
        title: the direction.
        rows: its metrics.
    """

    title: str
    rows: list[ResultRow]


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """The table of results.

    Attributes:
        columns: ways, arms and protocols, in this order of nesting; columns of one way stand together.
        blocks: one for each direction.
    """

    columns: list[ResultColumn]
    blocks: list[ResultBlock]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a plot.

    Attributes:
        name: what it shows.
        x: horizontal values, ascending.
        y: values, as many.
    """

    name: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot of lines.

    Attributes:
        title: what is plotted.
        x_label: horizontal axis, with its unit.
        lines: at least one.
        percent: the values are shares, to be shown in per cent.
    """

    title: str
    x_label: str
    lines: list[Line]
    percent: bool = False


@dataclass(frozen=True, kw_only=True)
class PictureAnswer:
    """A picture found for a caption.

    Attributes:
        picture: key of the picture.
        caption: its own caption, which also describes it to those who cannot see it.
        score: what it was ranked by, as text.
        mark: how it relates to the query.
    """

    picture: str
    caption: str
    score: str
    mark: Mark


@dataclass(frozen=True, kw_only=True)
class CaptionQuery:
    """A caption and the pictures found for it.

    Attributes:
        caption: the query.
        answers: best first.
    """

    caption: str
    answers: list[PictureAnswer]


@dataclass(frozen=True, kw_only=True)
class CaptionAnswer:
    """A caption found for a picture.

    Attributes:
        caption: its text.
        score: what it was ranked by, as text.
        mark: how it relates to the query.
    """

    caption: str
    score: str
    mark: Mark


@dataclass(frozen=True, kw_only=True)
class PictureQuery:
    """A picture and the captions found for it.

    Attributes:
        picture: key of the query.
        caption: its own caption.
        answers: best first.
    """

    picture: str
    caption: str
    answers: list[CaptionAnswer]


@dataclass(frozen=True, kw_only=True)
class SuspectCard:
    """A suspected false negative: a picture and the caption of another picture.

    Attributes:
        picture: key of the picture.
        own_caption: the caption it was declared with.
        caption: the caption suspected to be true of it too.
        caption_picture: key of the picture that caption was declared with.
        score: what it was ranked by, as text.
        verdict: what the known truth says.
        action: what the run did about the pair (such as "relabelled"); empty where it did nothing.
    """

    picture: str
    own_caption: str
    caption: str
    caption_picture: str
    score: str
    verdict: Verdict
    action: str = ""


@dataclass(frozen=True, kw_only=True)
class FactGroup:
    """Facts of the run that belong together.

    Attributes:
        title: their heading.
        facts: name and value, in the order shown.
    """

    title: str
    facts: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All of one page. Sections without content are left out of it.

    Attributes:
        title: heading of the page.
        summary: one sentence on what the run did.
        key_figures: numbers for the top of the page.
        results: the table of results.
        plots: curves of losses, recall, batches and conversions.
        examples_of: run whose answers the examples show; empty for the only one.
        caption_queries: text-to-image examples.
        picture_queries: image-to-text examples.
        suspects_of: run whose model suspects them; empty for the only one.
        suspects_by: what ranks them: "ITM", or "similarity" where ITM was not trained.
        suspects: suspected false negatives of the training set, strongest first.
        precision: of the suspects.
        converted: pairs that a judge turned into positives, of each run that had one.
        facts: data, model, machine, command, versions.
        pictures: pictures by key, each as a ``data:`` URI (see ``PictureBook``).
    """

    title: str
    summary: str
    key_figures: Sequence[KeyFigure] = ()
    results: ResultTable | None = None
    plots: Sequence[Plot] = ()
    examples_of: str = ""
    caption_queries: Sequence[CaptionQuery] = ()
    picture_queries: Sequence[PictureQuery] = ()
    suspects_of: str = ""
    suspects_by: Literal["ITM", "similarity"] = "ITM"
    suspects: Sequence[SuspectCard] = ()
    precision: Sequence[SuspectPrecision] = ()
    converted: Sequence[ConvertedPairs] = ()
    facts: Sequence[FactGroup] = ()
    pictures: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries and lists, ready for JSON."""
        return asdict(self)
