"""Questions about one drawing, in the layout of VQA v2."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from truepair.data.images import read_bytes
from truepair.data.sample_tasks.drawings import SPLITS, Drawing, partners, read_drawings, shuffled
from truepair.data.table import PairTable
from truepair.files import write_text
from truepair.randomness import stable_hash
from truepair.relations.text import normalise_answer

IMAGE_PATTERN = "{subtype}/COCO_{subtype}_{id:012d}.webp"
"""Where the drawings lie: as in VQA v2, but for the format of the files, which are copied as they are."""

_SUBTYPES = {"train": "train2014", "val": "val2014", "test": "test2015"}

_PEOPLE = 10

_FREQUENT = 9
"""Answers given at least this often in training are in the answer list, as is usual for VQA v2."""

_MOST_QUESTIONS = 100
"""Question ids are image id x this + a running number."""


class _Question(NamedTuple):
    drawing: Drawing
    text: str
    answers: list[str]
    answer_type: str
    question_type: str


def write_sample_vqa(table: PairTable, folder: str | Path) -> None:
    """Write questions, annotations, answer list and images; every call writes the same.

    Four kinds of questions. "Does this show a dog?" and "Does this show a dog or a cat?" are asked of two drawings of
    one category each time, with opposite answers: whoever does not look is right half the time. "What kind of thing is
    this?" is asked equally often in each category. "What is this called?" has up to three right answers, with 6, 3 and
    1 of the ten votes. Test questions are about held-out drawings; their annotations are written, too.

    Files: ``v2_OpenEnded_mscoco_{subtype}_questions.json``, ``v2_mscoco_{subtype}_annotations.json`` for the subtypes
    train2014, val2014 and test2015, ``answer_list.json``, and images by `IMAGE_PATTERN`.

    Args:
        table: the bundled sample, or a part of it.
        folder: where to write.

    Raises:
        DataError: the table is of another kind.
    """
    root = Path(folder)
    for split in SPLITS:
        drawings = read_drawings(table, split)
        questions = list(_questions(drawings, split))
        _write_split(root, _SUBTYPES[split], questions)
        _write_images(table, drawings, root, _SUBTYPES[split])
        if split == "train":
            votes: Counter[str] = Counter()
            for answer, count in Counter(answer for question in questions for answer in question.answers).items():
                votes[normalise_answer(answer)] += count
            frequent = sorted(answer for answer, count in votes.items() if count >= _FREQUENT and answer)
            write_text(root / "answer_list.json", json.dumps(frequent))


def _questions(drawings: Sequence[Drawing], split: str) -> Iterator[_Question]:
    """All questions of a split."""
    for first, second in partners(drawings, split, "yes or no"):
        for subject in (first, second):
            for shown in (first, second):
                answer = "yes" if shown is subject else "no"
                yield _Question(
                    shown, f"Does this show {subject.name}?", [answer] * _PEOPLE, "yes/no", "does this show"
                )
    for first, second in partners(drawings, split, "choice"):
        swap = stable_hash(split, "order", first.image_id) % 2
        names = (second.name, first.name) if swap else (first.name, second.name)
        for shown in (first, second):
            text = f"Does this show {names[0]} or {names[1]}?"
            yield _Question(shown, text, [shown.name] * _PEOPLE, "other", "which")
    for drawing in _evenly(drawings, split):
        yield _Question(
            drawing, "What kind of thing is this?", [drawing.category] * _PEOPLE, "other", "what kind of thing"
        )
    for drawing in drawings:
        yield _Question(drawing, "What is this called?", _votes(drawing.names), "other", "what is this called")


def _evenly(drawings: Sequence[Drawing], split: str) -> Iterator[Drawing]:
    """Equally many drawings of each category; categories with less than half the mean are left out."""
    by_category: dict[str, list[Drawing]] = {}
    for drawing in shuffled(drawings, split, "kind"):
        by_category.setdefault(drawing.category, []).append(drawing)
    mean = len(drawings) / len(by_category)
    large = {category: own for category, own in by_category.items() if len(own) >= mean / 2}
    each = min(map(len, large.values()))
    for category in sorted(large):
        yield from large[category][:each]


def _votes(names: Sequence[str]) -> list[str]:
    """Ten answers: the first names of a concept, the usual one most often."""
    shares = {1: (10,), 2: (7, 3)}.get(len(names), (6, 3, 1))
    return [name for name, share in zip(names, shares, strict=False) for _ in range(share)]


def _write_split(root: Path, subtype: str, questions: Sequence[_Question]) -> None:
    asked: Counter[int] = Counter()
    entries, annotations = [], []
    for question in questions:
        image_id = question.drawing.image_id
        question_id = image_id * _MOST_QUESTIONS + asked[image_id]
        asked[image_id] += 1
        entries.append({"image_id": image_id, "question": question.text, "question_id": question_id})
        annotations.append(_annotation(question, question_id))
    head: dict[str, Any] = {
        "info": {"description": "Questions about the drawings that truepair bundles.", "version": "1"},
        "license": {"name": "As the drawings; see LICENSES.md beside them."},
        "data_type": "mscoco",
        "data_subtype": subtype,
    }
    whole = {**head, "task_type": "Open-Ended", "questions": entries}
    write_text(root / f"v2_OpenEnded_mscoco_{subtype}_questions.json", json.dumps(whole))
    write_text(root / f"v2_mscoco_{subtype}_annotations.json", json.dumps({**head, "annotations": annotations}))


def _annotation(question: _Question, question_id: int) -> dict[str, Any]:
    return {
        "question_type": question.question_type,
        "multiple_choice_answer": question.answers[0],
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": number}
            for number, answer in enumerate(question.answers, 1)
        ],
        "image_id": question.drawing.image_id,
        "answer_type": question.answer_type,
        "question_id": question_id,
    }


def _write_images(table: PairTable, drawings: Sequence[Drawing], root: Path, subtype: str) -> None:
    cells = table.rows.select_columns(["image"])
    for drawing in drawings:
        path = root / IMAGE_PATTERN.format(subtype=subtype, id=drawing.image_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(read_bytes(cells[drawing.row]["image"]))
