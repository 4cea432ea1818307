"""Small files in the formats of OK-VQA and A-OKVQA, field for field as they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.data.makers import put_json

TYPES = {"one": "Vehicles and Transportation", "two": "Brands, Companies and Products", "other": "Other"}


def okvqa_question(image_id: int, number: int, question: str) -> dict[str, Any]:
    return {"image_id": image_id, "question": question, "question_id": 10 * image_id + number}


def okvqa_annotation(
    question: dict[str, Any], answers: Sequence[str], raw: Sequence[str] | None = None, kind: str = "one"
) -> dict[str, Any]:
    """Five people's answers, each there twice, stemmed and as they wrote them."""
    pairs = zip(answers, answers if raw is None else raw, strict=True)
    return {
        "image_id": question["image_id"],
        "answer_type": "other",
        "question_type": kind,
        "question_id": question["question_id"],
        "answers": [
            {"answer_id": number, "raw_answer": wrote, "answer_confidence": "yes", "answer": stemmed}
            for number, (stemmed, wrote) in enumerate(pairs, 1)
        ],
        "confidence": 3,
    }


def put_okvqa(
    folder: Path, subtype: str, questions: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]]
) -> dict[str, str]:
    """Write both files by their official names, and return them as fields of a source."""
    head = {"info": {"version": "1.1", "year": 2019}, "data_type": "mscoco", "data_subtype": subtype, "license": {}}
    asked = {**head, "task_type": "Open-Ended", "questions": list(questions)}
    told = {**head, "annotations": list(annotations), "question_types": TYPES}
    return {
        "questions": str(put_json(folder / f"OpenEnded_mscoco_{subtype}_questions.json", asked)),
        "annotations": str(put_json(folder / f"mscoco_{subtype}_annotations.json", told)),
    }


def aokvqa_entry(
    name: str, image_id: int, question: str, choices: Sequence[str], right: int, answers: Sequence[str], **fields: Any
) -> dict[str, Any]:
    """One entry of train or val."""
    return {
        "split": "val",
        "image_id": image_id,
        "question_id": name,
        "question": question,
        "choices": list(choices),
        "correct_choice_idx": right,
        "direct_answers": list(answers),
        "difficult_direct_answer": False,
        "rationales": ["One sees it.", "It looks so.", "It is known."],
        **fields,
    }


def without_answers(entry: dict[str, Any]) -> dict[str, Any]:
    """The same entry as one of the test split."""
    hidden = ("correct_choice_idx", "direct_answers", "rationales")
    return {name: value for name, value in entry.items() if name not in hidden} | {"split": "test"}
