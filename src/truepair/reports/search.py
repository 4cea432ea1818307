"""The page of a search: each query with the pictures or captions that are most like it."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from truepair.data.images import BadImageError, load_image
from truepair.files import write_text
from truepair.reports.cards import PictureBook
from truepair.reports.page import page_environment
from truepair.tasks.search import Answer, Found, Search
from truepair.tasks.vectors import IMAGE, shown_path

_SIDE = 320  # pixels; twice what a card shows, for dense screens


@dataclass(frozen=True)
class HitCard:
    """One hit.

    Attributes:
        picture: data URI; empty where the picture cannot be read any more.
        score: cosine similarity.
        where: path of the picture.
        captions: its captions, or the one that was found.
    """

    picture: str
    score: str
    where: str
    captions: list[str]


@dataclass(frozen=True)
class QueryBlock:
    """One query.

    Attributes:
        text: of the query, or the path of its picture.
        picture: data URI of the picture that was the query; empty for a text.
        hits: the most like it first.
    """

    text: str
    picture: str
    hits: list[HitCard]


def write_search_page(search: Search, path: Path, *, command: str) -> Path:
    """Write the page as one HTML file that needs no network and no script.

    Args:
        search: queries and hits.
        path: of the HTML file.
        command: what found them.

    Raises:
        DataError: the disk refuses.
    """
    book = PictureBook(side=_SIDE)
    environment = page_environment()
    origin = search.stored.origin
    found = "pictures" if search.kind == IMAGE else "captions"
    page = environment.get_template("search.html.j2").render(
        queries=[_block(answer, search, book) for answer in search.answers],
        of_images=search.kind == IMAGE,
        summary=f"The {found} most like each query, among {search.among:,} {found} of {origin.source['source']}, by "
        f"cosine similarity of the vectors of {origin.model}.",
        command=command,
        logo=Markup(environment.get_template("logo.svg").render()),
    )
    write_text(path, page)
    return path


def _block(answer: Answer, search: Search, book: PictureBook) -> QueryBlock:
    picture = ""
    if isinstance(answer.query, Path):
        picture = book.uris[book.add(load_image({"path": str(answer.query)}))]
    return QueryBlock(str(answer.query), picture, [_card(found, search, book) for found in answer.found])


def _card(found: Found, search: Search, book: PictureBook) -> HitCard:
    try:
        picture = book.uris[book.add(search.stored.picture(found.place))]
    except BadImageError:
        picture = ""
    return HitCard(picture, f"{found.score:.3f}", shown_path(found.about), found.about["captions"])
