"""The page of an examination: what a source holds and what is wrong with it, with pictures."""

import os
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from truepair.data.images import BadImageError
from truepair.data.table import PairTable
from truepair.files import write_text
from truepair.reports.cards import PictureBook
from truepair.reports.data import KeyFigure
from truepair.reports.page import page_environment
from truepair.reports.results import percent
from truepair.tasks.doctor.diagnosis import Diagnosis, Finding

_SIDE = 240  # pixels

_IN_SIGHT = 12
"""Examples that are shown before a fold."""

_MOST = 1000
"""Examples of a finding on the page; the JSON has all."""

_PARTS = {"splits": "Splits", "pictures": "Pictures", "captions": "Captions", "model": "By the model"}

_WEIGHTS = {
    "error": ("wrong", "spoils a run"),
    "warning": ("near", "costs quality"),
    "note": ("unknown", "good to know"),
}


@dataclass(frozen=True)
class ExampleCard:
    """One case of a finding.

    Attributes:
        pictures: data URIs; empty where a picture cannot be read.
        text: what there is to say of it.
        files: the files that it is about, as they are seen from the folder of most of them.
    """

    pictures: list[str]
    text: str
    files: list[str]


@dataclass(frozen=True)
class FindingBlock:
    """One finding.

    Attributes:
        finding: what was found.
        share: of all that was looked at, as text; empty where there is no such number.
        mark: class of its mark.
        weight: how much it matters, in words.
        cards: examples that are in sight.
        more: those behind a fold.
    """

    finding: Finding
    share: str
    mark: str
    weight: str
    cards: list[ExampleCard]
    more: list[ExampleCard]


def write_doctor_page(diagnosis: Diagnosis, path: Path, *, command: str) -> Path:
    """Write the page as one HTML file that needs no network and no script.

    Args:
        diagnosis: what was found.
        path: of the HTML file.
        command: what found it.

    Raises:
        DataError: the disk refuses.
    """
    book = PictureBook(side=_SIDE)
    folder = _folder(diagnosis)
    blocks = [_block(finding, diagnosis.table, book, folder) for finding in diagnosis.found]
    environment = page_environment()
    page = environment.get_template("doctor.html.j2").render(
        name=", ".join(Path(source).name or source for source in diagnosis.sources),
        folder=folder,
        summary=_summary(diagnosis),
        key_figures=_key_figures(diagnosis),
        parts=[
            (title, [block for block in blocks if block.finding.part == part])
            for part, title in _PARTS.items()
            if any(block.finding.part == part for block in blocks)
        ],
        clean=[one.what for one in diagnosis.findings if one.count == 0],
        unknown=[one.what for one in diagnosis.findings if one.count is None],
        facts=_facts(diagnosis),
        command=command,
        logo=Markup(environment.get_template("logo.svg").render()),
    )
    write_text(path, page)
    return path


def _summary(diagnosis: Diagnosis) -> str:
    counts = {weight: sum(one.weight == weight for one in diagnosis.found) for weight in _WEIGHTS}
    if not any(counts.values()):
        return "Nothing is wrong with these pairs."
    words = {
        "error": ("spoils a run", "spoil a run"),
        "warning": ("costs quality", "cost quality"),
        "note": ("is good to know", "are good to know"),
    }
    said = [f"{count} {words[weight][count > 1]}" for weight, count in counts.items() if count]
    return f"Of the things that were looked for, {', '.join(said)}."


def _key_figures(diagnosis: Diagnosis) -> list[KeyFigure]:
    negatives, table = diagnosis.false_negatives, diagnosis.table
    splits = ", ".join(f"{name} {count:,}" for name, count in table.splits.items())
    estimated = ""
    if negatives.estimated is not None:
        estimated = f"; {negatives.estimated:,.3g} estimated by {negatives.by}"
    return [
        KeyFigure(label="Rows", value=f"{len(table):,}", note=splits),
        KeyFigure(label="Pictures", value=f"{diagnosis.pictures:,}", note="one for all its ids, files and copies"),
        KeyFigure(label="Captions", value=f"{table.caption_count:,}", note="as the source states them"),
        KeyFigure(
            label="False negatives",
            value=f"{negatives.certain:,.3g}",
            note=f"in a batch of {negatives.batch:,}, for certain: the same picture or text{estimated}",
        ),
    ]


def _facts(diagnosis: Diagnosis) -> list[tuple[str, list[tuple[str, str]]]]:
    """Tables of facts: title, and names with values."""
    facts = [
        ("Captions a picture", [(str(number), f"{count:,}") for number, count in diagnosis.captions_a_picture.items()])
    ]
    facts += [
        (title, [(name, f"{value:,g}") for name, value in values.items()])
        for title, values in (
            ("Words a caption", diagnosis.words),
            ("Width, pixels", diagnosis.sizes.get("width", {})),
            ("Height, pixels", diagnosis.sizes.get("height", {})),
            ("Width by height", diagnosis.sizes.get("aspect", {})),
        )
    ]
    scripts = {"no letters" if name == "none" else name.title(): count for name, count in diagnosis.scripts.items()}
    for title, counts in (("Scripts of captions", scripts), ("Licences as stated, rows", diagnosis.licences)):
        facts.append((title, [(name, f"{count:,}") for name, count in counts.items()]))
    return [(title, rows[:_IN_SIGHT]) for title, rows in facts if rows]


def _block(finding: Finding, table: PairTable, book: PictureBook, folder: str) -> FindingBlock:
    mark, weight = _WEIGHTS[finding.weight]
    cards = [
        ExampleCard(
            [_picture(table, row, book) for row in example.rows],
            example.text,
            [file.removeprefix(f"{folder}/") for file in example.files],
        )
        for example in finding.examples[:_MOST]
    ]
    share = f"{percent((finding.count or 0) / finding.of)} of {finding.of:,}" if finding.of else ""
    return FindingBlock(finding, share, mark, weight, cards[:_IN_SIGHT], cards[_IN_SIGHT:])


def _folder(diagnosis: Diagnosis) -> str:
    """The folder that all files of the examples lie in; empty if there is none but the root."""
    shown = (example for finding in diagnosis.found for example in finding.examples)
    folders = {os.path.dirname(file) for example in shown for file in example.files if os.path.isabs(file)}  # noqa: PTH117, PTH120
    return os.path.commonpath(folders).rstrip("/") if folders else ""


def _picture(table: PairTable, row: int, book: PictureBook) -> str:
    try:
        return book.uris[book.add(table.image(row))]
    except BadImageError:
        return ""
