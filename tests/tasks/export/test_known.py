"""What a source and its ledger say together, and the ids that keep rows apart, against slow references."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.export.mined import CERTIFICATE, JUDGE
from truepair.errors import ConfigError, DataError
from truepair.mining.candidates import Candidates
from truepair.mining.gallery import Lists
from truepair.relations.ledger import PERSON
from truepair.relations.standing import Standing
from truepair.relations.zones import Zone
from truepair.tasks.export.known import DECLARED, Known, Standard, groups_of, hardest_negatives, known_cells

N, M = 5, 6
JUDGES = ["a", "b", "person:anna", "person:ben"]


def lists(rows: list[list[int]]) -> Lists:
    owners = [owner for owner, values in enumerate(rows) for _ in values]
    return Lists.of(np.array(owners, np.int64), np.array([value for row in rows for value in row], np.int64), len(rows))


def gallery(declared: list[tuple[int, int]], ids: int = 1) -> Candidates:
    """Pictures and captions with the given pairs; picture p has ids 10p, 10p + 1 ..., caption c has 100c ..."""
    made = SimpleNamespace(
        texts=[f"caption {number}" for number in range(M)],
        image_ids=lists([[10 * p + k for k in range(ids)] for p in range(N)]),
        caption_ids=lists([[100 * c + k for k in range(ids)] for c in range(M)]),
        own=lists([[c for p, c in declared if p == picture] for picture in range(N)]),
    )
    return cast(Candidates, made)


def ledger(verdicts: list[tuple[int, int, str, float]]) -> pa.Table:
    columns: list[Any] = [list(column) for column in zip(*verdicts, strict=True)] or [[], [], [], []]
    images, captions, judges, probabilities = columns
    return pa.table(
        {
            "image_id": pa.array(images, pa.int64()),
            "caption_id": pa.array(captions, pa.int64()),
            "judge": pa.array(judges, pa.string()),
            "probability": pa.array(probabilities, pa.float32()),
        }
    )


cells = st.tuples(st.integers(0, N - 1), st.integers(0, M - 1))
probabilities = st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 0.8, 0.9, 1.0])
declarations = st.lists(cells, min_size=1, max_size=8, unique=True)
opinions = st.dictionaries(
    st.tuples(cells, st.sampled_from(JUDGES), st.integers(0, 1), st.integers(0, 1)), probabilities
)


def reference(words: dict[str, list[float]], declared: bool, high: float | None) -> int:
    """The kind of a cell, from what each judge said of its ids."""
    people = [word >= 0.5 for judge, said in words.items() if judge.startswith(PERSON) for word in said]
    judges = [word for judge, said in words.items() if not judge.startswith(PERSON) for word in said]
    refused = bool(people) and not any(people)
    if declared and not refused:
        return DECLARED
    if people:
        return int(Zone.MATCH if all(people) else Zone.NEGATIVE if refused else Zone.DOUBTFUL)
    counted = [np.float32(word) for word in words.get("a", [])]
    if counted and high is not None and min(counted) >= np.float32(high):
        return int(Zone.MATCH)
    if counted and max(judges) < np.float32(0.1):
        return int(Zone.NEGATIVE)
    return int(Zone.DOUBTFUL)


@settings(max_examples=150)
@given(declarations, opinions, st.sampled_from([None, 0.1, 0.8, 0.9]))
def test_cells_are_what_a_slow_reading_says(
    declared: list[tuple[int, int]],
    said: dict[tuple[tuple[int, int], str, int, int], float],
    high: float | None,
) -> None:
    words: dict[tuple[int, int], dict[str, list[float]]] = {}
    for (cell, judge, _, _), probability in said.items():
        words.setdefault(cell, {}).setdefault(judge, []).append(probability)
    rows = [(10 * p + i, 100 * c + j, judge, word) for ((p, c), judge, i, j), word in said.items()]
    standard = Standard(judge="a", low=0.1, high=high)
    if not rows:
        with pytest.raises(DataError, match="no verdict of the ledger is about the pictures and captions"):
            known_cells(gallery(declared, 2), ledger(rows), standard, lambda _: None)
        return
    known = known_cells(gallery(declared, 2), ledger(rows), standard, lambda _: None)
    found = dict(
        zip(zip(known.pictures.tolist(), known.captions.tolist(), strict=True), known.kinds.tolist(), strict=True)
    )
    assert found == {cell: reference(words.get(cell, {}), cell in declared, high) for cell in {*declared, *words}}

    # No exported negative is declared, or a match by any verdict that people have not overruled.
    asked = np.arange(N)
    for picture, captions in zip(asked, hardest_negatives(known, asked, 3, np.ones(M, bool)).tolist(), strict=True):
        order = []
        for caption in (caption for caption in captions if caption >= 0):
            by = words[int(picture), caption]
            people = [word for judge, spoken in by.items() if judge.startswith(PERSON) for word in spoken]
            assert max(people or [word for spoken in by.values() for word in spoken]) < (0.5 if people else 0.1)
            order.append(min(by.get("a", [-1.0])))
        assert order == sorted(order, reverse=True)
        assert len(order) == min(3, sum(p == picture and kind == int(Zone.NEGATIVE) for (p, _), kind in found.items()))


@settings(max_examples=150)
@given(
    st.dictionaries(
        cells, st.sampled_from([int(Zone.NEGATIVE), int(Zone.DOUBTFUL), int(Zone.MATCH), DECLARED]), min_size=1
    ),
    st.integers(0, 2),
    st.randoms(use_true_random=False),
)
def test_rows_share_an_id_exactly_if_they_must_not_meet(
    kinds: dict[tuple[int, int], int], more: int, random: Any
) -> None:
    ordered = sorted(kinds)
    known = Known(
        pictures=np.array([p for p, _ in ordered], np.int64),
        captions=np.array([c for _, c in ordered], np.int64),
        kinds=np.array([kinds[cell] for cell in ordered], np.int64),
        probabilities=np.full(len(ordered), np.nan, np.float32),
        scores=np.full(len(ordered), np.nan, np.float32),
        judges=[None] * len(ordered),
        certified=np.zeros(len(ordered), bool),
    )
    rows = [cell for cell in ordered if kinds[cell] in (DECLARED, int(Zone.MATCH))]
    if not rows:
        return
    negatives = [[random.randrange(M) for _ in range(more)] for _ in rows]
    captions = np.array([[c, *further] for (_, c), further in zip(rows, negatives, strict=True)], np.int64)
    groups = groups_of(known, np.array([p for p, _ in rows], np.int64), captions[:, 0], captions[:, 1:], (N, M))
    assert len(groups) == len(rows) and groups.counts.min() >= 1
    apart = {cell for cell, kind in kinds.items() if kind != int(Zone.NEGATIVE)}
    for one in range(len(rows)):
        for other in range(one):
            (p, _), (q, _) = rows[one], rows[other]
            ours, theirs = captions[one].tolist(), captions[other].tolist()
            expected = (
                p == q
                or any((p, caption) in apart for caption in theirs)
                or any((q, caption) in apart for caption in ours)
            )
            assert bool(set(groups[one].tolist()) & set(groups[other].tolist())) == expected


def standard(**stated: Any) -> tuple[Standard, list[str]]:
    said: list[str] = []
    verdicts = ledger([(0, 0, JUDGE, 0.5), (0, 100, "other", 0.5), (0, 0, "person:anna", 1.0)])
    given = {"verdicts": verdicts, "standing": None, "low": 0.1, "high": None, "judge": None, "say": said.append}
    return Standard.of_ledger(**(given | stated)), said


def test_the_certificate_says_what_a_match_is() -> None:
    certified = Standing(judge=JUDGE, answers=9, certificate=CERTIFICATE)
    found, said = standard(standing=certified)
    assert (found.judge, found.high, found.certificate) == (JUDGE, 0.8, CERTIFICATE)
    assert said == [f"matches are certified, or people said yes to them: {CERTIFICATE.sentence()}"]
    found, said = standard(standing=certified, high=0.5)
    assert found.high == 0.5 and said == [f"--high 0.5 in place of the certified 0.8: {CERTIFICATE.sentence()}"]
    found, said = standard(standing=certified, judge="other")
    assert found.certificate is None and found.high is None
    assert said[0] == f"the certificate is of {JUDGE}, so it says nothing of other"


def test_without_a_certificate_only_people_make_matches() -> None:
    found, said = standard(standing=Standing(judge=JUDGE, answers=9))
    assert (found.judge, found.high) == (JUDGE, None)
    assert said == [
        "there is no certificate, so matches are what people said yes to, alone; --high P takes a judge's word"
    ]
    found, said = standard(judge="other", high=0.7)
    assert found.high == 0.7 and said == ["--high 0.7: matches are by other, on no certificate"]


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=rf"verdicts of other, {JUDGE}; say by --judge whose count"):
        standard()
    with pytest.raises(ConfigError, match=rf"the ledger has no judge nobody; it has other, {JUDGE}"):
        standard(judge="nobody")
    with pytest.raises(ConfigError, match=r"needs 0 < low <= high <= 1, but low is 0.4 and high 0.3"):
        standard(judge="other", low=0.4, high=0.3)
    unknown = ledger([(77, 0, "a", 0.9), (0, 0, "a", 0.9)])
    said: list[str] = []
    known_cells(gallery([(0, 0)]), unknown, Standard(judge="a", low=0.1, high=None), said.append)
    assert said == ["1 verdicts are left out: they are about nothing of this source"]
