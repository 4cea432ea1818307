"""The page of what was mined: the most suspicious cells, with their pictures."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from truepair.files import write_text
from truepair.reports.cards import PictureBook
from truepair.reports.page import page_environment
from truepair.tasks.unlabelled import Mined

SHOWN = 200
"""Most cards of a page."""

_SIDE = 240  # pixels

_OWN = 2  # own captions of a picture that a card shows

_WORDS = {"true": "true match", "near": "near-match", "false": "not a match", "unknown": ""}


@dataclass(frozen=True)
class SuspiciousCard:
    """One cell.

    Attributes:
        picture: data URI; empty where it cannot be read any more.
        caption: suspected to be true of the picture.
        own: captions that the picture has.
        more: how many more it has.
        owner: data URI of the picture that the caption was declared for.
        verdict: what the known truth says, in words; empty where nothing is known.
    """

    picture: str
    caption: str
    own: list[str]
    more: int
    owner: str
    verdict: str


def write_suspects(mined: Mined, path: Path, *, top: int, command: str) -> Path:
    """Write the page as one HTML file that needs no network and no script.

    Args:
        mined: what was mined.
        path: of the HTML file.
        top: how many are shown, at most ``SHOWN``.
        command: what mined them.

    Returns:
        ``path``.

    Raises:
        DataError: the disk refuses.
    """
    candidates, book = mined.candidates, PictureBook(side=_SIDE)

    def shown(picture: int) -> str:
        """A picture as a data URI."""
        key = book.of_row(mined.table, int(candidates.rows[picture]))
        return "" if key is None else book.uris[key]

    cards = []
    for number in range(min(top, SHOWN, len(candidates))):
        picture, caption = int(candidates.pictures[number]), int(candidates.captions[number])
        own = [candidates.texts[place] for place in candidates.own[picture]]
        verdict = "" if mined.verdicts is None else _WORDS[str(mined.verdicts[number])]
        owner = shown(int(candidates.owners[caption][0]))
        cards.append(
            SuspiciousCard(
                shown(picture), candidates.texts[caption], own[:_OWN], max(len(own) - _OWN, 0), owner, verdict
            )
        )
    mined.left_out.of_page(book.unreadable)
    environment = page_environment()
    page = environment.get_template("mining.html.j2").render(
        cards=cards,
        total=len(candidates),
        name=mined.table.name,
        folder=str(path.parent),
        command=command,
        left_out=mined.left_out.summaries,
        logo=Markup(environment.get_template("logo.svg").render()),
    )
    write_text(path, page)
    return path
