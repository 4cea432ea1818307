"""Retrieval examples of a run, as the page shows them."""

from collections.abc import Sequence
from dataclasses import dataclass

from truepair.data.table import PairTable
from truepair.reports.data import CaptionAnswer, CaptionQuery, PictureAnswer, PictureQuery
from truepair.reports.pictures import PictureBook
from truepair.tasks.examples import Example, draw_examples
from truepair.tasks.retrieval import RetrievalResult, RetrievalTask


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
    drawn = draw_examples(task, ways[0], ways[-1])
    table, texts = task.images.table, task.gallery.texts
    return ShownExamples(
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


def _caption(table: PairTable, row: int) -> str:
    caption: str = table.rows[row]["captions"][0]
    return caption
