"""Cards of suspected false negatives and of converted pairs."""

from collections.abc import Sequence

from truepair.data.table import PairTable
from truepair.mining.suspects import Suspect
from truepair.reports.data import ConvertedCard, ConvertedPairs, SuspectCard
from truepair.reports.pictures import PictureBook
from truepair.reports.results import percent
from truepair.tasks.audit import AuditedSuspect
from truepair.tasks.conversions import Conversions

SHOWN_SUSPECTS = 200

SHOWN_CONVERSIONS = 48


def suspect_cards(train: PairTable, suspects: Sequence[AuditedSuspect], book: PictureBook) -> list[SuspectCard]:
    """Cards of the strongest suspects.

    Args:
        train: the audited pairs.
        suspects: the strongest first.
        book: takes the pictures.
    """
    return [
        SuspectCard(
            picture=book.add(train.image(item.suspect.image)),
            own_caption=_caption(train, item.suspect.image),
            caption=_caption(train, item.suspect.caption),
            caption_picture=book.add(train.image(item.suspect.caption)),
            score=_score(item.suspect),
            verdict=item.verdict,
        )
        for item in suspects[:SHOWN_SUSPECTS]
    ]


def converted_pairs(run: str, train: PairTable, found: Conversions, book: PictureBook) -> ConvertedPairs:
    """The converted pairs of a run in figures, and cards of some that are drawn by lot.

    Args:
        run: its name; empty for the only one.
        train: its training pairs.
        found: the conversions.
        book: takes the pictures.
    """
    cards = []
    for number in found.draw(SHOWN_CONVERSIONS).tolist():
        image, owner = int(found.images[number]), int(found.captions[number])
        card = ConvertedCard(
            picture=book.add(train.image(image)),
            own_caption=_caption(train, image),
            caption=_caption(train, owner, int(found.places[number])),
            caption_picture=book.add(train.image(owner)),
            score=float(found.scores[number]),
            epoch=int(found.epochs[number]) + 1,
            verdict=found.verdict(number),
        )
        cards.append(card)
    return ConvertedPairs(
        run=run, count=len(found), judged=found.judged, true=found.true, recall=found.recall, cards=cards
    )


def _score(suspect: Suspect) -> str:
    """What a suspect was ranked by."""
    if suspect.probability is None:
        return f"cosine {suspect.similarity:.2f}"
    return f"ITM {percent(suspect.probability)}"


def _caption(table: PairTable, row: int, place: int = 0) -> str:
    caption: str = table.rows[row]["captions"][place]
    return caption
