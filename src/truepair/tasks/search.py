"""A question to vectors on disk: a text or a picture, and what is most like it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from truepair.data.formats.record import IMAGE_SUFFIXES
from truepair.errors import ConfigError, DataError
from truepair.tasks.retriever import Retriever
from truepair.tasks.vectors import CAPTION, IMAGE, StoredVectors


@dataclass(frozen=True)
class Found:
    """One hit.

    Attributes:
        place: which vector it is.
        score: cosine similarity to the query.
        about: what stands beside the vector, see ``vectors.COLUMNS``.
    """

    place: int
    score: float
    about: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A query and its hits, the most like it first.

    Attributes:
        query: a text, or the path of a picture.
        found: the hits.
    """

    query: str | Path
    found: list[Found]


@dataclass(frozen=True)
class Search:
    """What became of a search.

    Attributes:
        stored: the vectors that were asked.
        kind: "image" or "caption", what was looked for.
        among: how many there are of them.
        answers: one of each query.
    """

    stored: StoredVectors
    kind: str
    among: int
    answers: list[Answer]


def search_vectors(
    model: str | Path,
    vectors: str | Path,
    queries: Sequence[str],
    say: Callable[[str], None],
    *,
    k: int = 10,
    what: Literal["images", "captions"] | None = None,
) -> Search:
    """Find what is most like some queries.

    Args:
        model: the one that made the vectors.
        vectors: what ``truepair embed`` wrote.
        queries: texts, and paths of pictures, which need not be in the set.
        say: prints a line.
        k: hits of each query.
        what: look for pictures or for captions; by default for pictures where there are any.

    Raises:
        DataError: the vectors are missing, damaged, or of another model; or a picture is.
        ConfigError: there is nothing of the wanted kind.
    """
    asked = [_query(word) for word in queries]
    stored = StoredVectors.open(vectors)
    kind = CAPTION if (what or stored.origin.what) == "captions" else IMAGE
    places = stored.places_of(kind)
    if not len(places):
        raise ConfigError(f"{vectors} holds no {kind}s; embed them with --what both, or leave --what out")
    retriever = Retriever.load(model, say=say)
    stored.require_model(retriever.fingerprint, str(model))
    longest = retriever.preprocessing.max_length
    texts = [query for query in asked if isinstance(query, str)]
    for place in retriever.cut_texts(texts):
        say(f"the query is longer than the {longest} tokens that the model reads, and its end is cut: {texts[place]}")
    searched = stored.vectors if len(places) == len(stored) else stored.vectors[places]
    answers = []
    for query in asked:
        hits = retriever.search(query, searched, k)
        found = [
            Found(int(places[hit]), float(score), stored.about(int(places[hit])))
            for hit, score in zip(hits.places, hits.scores, strict=True)
        ]
        answers.append(Answer(query, found))
    return Search(stored, kind, len(places), answers)


def _query(word: str) -> str | Path:
    """A word of the command as a picture, if it is the path of a file, or else as a text.

    Raises:
        DataError: it looks like the path of a picture, and there is none.
    """
    path = Path(word).expanduser()
    try:
        if path.is_file():
            return path
    except OSError:  # too long for a path
        return word
    if path.suffix.lower() in IMAGE_SUFFIXES and " " not in word:
        raise DataError(f"there is no picture {word}; check the path")
    return word
