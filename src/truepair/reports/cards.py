"""Pictures of a page, and what is shown with them: examples, suspected false negatives, converted pairs."""

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from truepair.data.images import BadImageError
from truepair.data.table import PairTable
from truepair.mining.suspects import Suspect
from truepair.reports.data import (
    CaptionAnswer,
    CaptionQuery,
    ConvertedCard,
    ConvertedPairs,
    PictureAnswer,
    PictureQuery,
    SuspectCard,
)
from truepair.reports.results import percent
from truepair.tasks.audit import AuditedSuspect
from truepair.tasks.conversions import Conversions
from truepair.tasks.examples import Example, draw_examples
from truepair.tasks.retrieval import RetrievalResult, RetrievalTask

SHOWN_SUSPECTS, SHOWN_CONVERSIONS = 200, 48


class PictureBook:
    """Collects the pictures of a page; equal pictures share a key, however often they are added.

    Attributes:
        uris: key -> data URI.
        unreadable: (table, row, why) of pictures that could not be read, which the page leaves out.
    """

    def __init__(self, side: int = 96, quality: int = 80) -> None:
        """Start an empty book.

        Args:
            side: longest side of a stored picture, in pixels; smaller pictures keep their size.
            quality: of the WebP encoding, 0 to 100.
        """
        self.side = side
        self.quality = quality
        self.uris: dict[str, str] = {}
        self.unreadable: list[tuple[PairTable, int, str]] = []

    def of_row(self, table: PairTable, row: int) -> str | None:
        """Store the picture of a row and return its key; None, and an entry in ``unreadable``, if it cannot be read."""
        try:
            return self.add(table.image(row))
        except BadImageError as error:
            self.unreadable.append((table, row, str(error)))
            return None

    def add(self, picture: Image.Image) -> str:
        """Store a picture and return its key. Transparent parts become white, as the model saw them."""
        picture = _on_white(picture)
        picture.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        picture.save(encoded, "WEBP", quality=self.quality, method=4)
        content = encoded.getvalue()
        key = hashlib.blake2b(content, digest_size=8).hexdigest()
        self.uris.setdefault(key, "data:image/webp;base64," + base64.b64encode(content).decode("ascii"))
        return key


@dataclass(frozen=True)
class ShownExamples:
    """Queries of both directions with their answers.

    Attributes:
        pictures: pictures asking for captions.
        captions: captions asking for pictures.
    """

    pictures: Sequence[PictureQuery] = ()
    captions: Sequence[CaptionQuery] = ()


def show_examples(task: RetrievalTask, result: RetrievalResult, book: PictureBook) -> ShownExamples:
    """Draw queries of the test split, ranked by the way that uses the most of the model.

    Args:
        task: the pictures and captions.
        result: their evaluation, whose rankings are shown.
        book: takes the pictures.
    """
    ways = list(result.rankings.values())
    drawn = draw_examples(task, ways[0].texts, ways[-1].texts)
    table, texts = task.images.table, task.truth.texts
    pictures = (_picture_query(table, texts, example, book) for example in drawn.pictures)
    captions = [_caption_query(table, texts, example, book) for example in drawn.captions]
    return ShownExamples([query for query in pictures if query is not None], captions)


def suspect_cards(train: PairTable, suspects: Sequence[AuditedSuspect], book: PictureBook) -> list[SuspectCard]:
    """Cards of the strongest suspects.

    Args:
        train: the audited pairs.
        suspects: the strongest first.
        book: takes the pictures.
    """
    cards = []
    for item in suspects[:SHOWN_SUSPECTS]:
        picture, owner = (book.of_row(train, row) for row in (item.suspect.image, item.suspect.caption))
        if picture is None or owner is None:
            continue
        card = SuspectCard(
            picture=picture,
            own_caption=_caption(train, item.suspect.image),
            caption=_caption(train, item.suspect.caption),
            caption_picture=owner,
            score=_score(item.suspect),
            verdict=item.verdict,
        )
        cards.append(card)
    return cards


def converted_pairs(run: str, train: PairTable, conversions: Conversions, book: PictureBook) -> ConvertedPairs:
    """The converted pairs of a run in figures, and cards of some that are drawn at random.

    Args:
        run: its name; empty for the only one.
        train: its training pairs.
        conversions: the conversions.
        book: takes the pictures.
    """
    cards = []
    for number in conversions.draw(SHOWN_CONVERSIONS).tolist():
        image, owner = int(conversions.images[number]), int(conversions.captions[number])
        picture, caption_picture = book.of_row(train, image), book.of_row(train, owner)
        if picture is None or caption_picture is None:
            continue
        card = ConvertedCard(
            picture=picture,
            own_caption=_caption(train, image),
            caption=_caption(train, owner, int(conversions.places[number])),
            caption_picture=caption_picture,
            score=float(conversions.scores[number]),
            epoch=int(conversions.epochs[number]) + 1,
            verdict=conversions.verdict(number),
        )
        cards.append(card)
    return ConvertedPairs(
        run=run,
        count=len(conversions),
        judged=conversions.judged,
        true=conversions.true,
        recall=conversions.recall,
        cards=cards,
    )


def _picture_query(table: PairTable, texts: Sequence[str], example: Example, book: PictureBook) -> PictureQuery | None:
    answers = [
        CaptionAnswer(caption=texts[answer.number], score=f"{answer.similarity:.2f}", mark=answer.mark)
        for answer in example.answers
    ]
    picture = book.of_row(table, example.query)
    if picture is None:
        return None
    return PictureQuery(picture=picture, caption=_caption(table, example.query), answers=answers)


def _caption_query(table: PairTable, texts: Sequence[str], example: Example, book: PictureBook) -> CaptionQuery:
    shown = [(book.of_row(table, answer.number), answer) for answer in example.answers]
    answers = [
        PictureAnswer(
            picture=picture,
            caption=_caption(table, answer.number),
            score=f"{answer.similarity:.2f}",
            mark=answer.mark,
        )
        for picture, answer in shown
        if picture is not None
    ]
    return CaptionQuery(caption=texts[example.query], answers=answers)


def _score(suspect: Suspect) -> str:
    """What a suspect was ranked by."""
    if suspect.probability is None:
        return f"cosine {suspect.similarity:.2f}"
    return f"ITM {percent(suspect.probability)}"


def _caption(table: PairTable, row: int, place: int = 0) -> str:
    caption: str = table.rows[row]["captions"][place]
    return caption


def _on_white(picture: Image.Image) -> Image.Image:
    """An RGB copy with a white ground."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture).convert("RGB")
