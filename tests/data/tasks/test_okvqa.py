"""OK-VQA and A-OKVQA: their files, and COCO's photographs as people keep them."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.makers import noise, put, put_json, put_jsonl
from tests.data.tasks.knowledge import aokvqa_entry, okvqa_annotation, okvqa_question, put_okvqa, without_answers
from truepair.data.tasks.vqa import VqaDataset, frequent_answers
from truepair.data.tasks.vqa_entries import Choices
from truepair.data.tasks.vqa_source import VqaSource, VqaTable, open_vqa
from truepair.errors import DataError
from truepair.relations.text import UNSTATED

ASKED = [
    okvqa_question(297147, 5, "What sport can you use this for?"),
    okvqa_question(339761, 5, "What are these called?"),
]
TOLD = [
    okvqa_annotation(ASKED[0], ["race"] * 6 + ["ride"] * 4, ["racing"] * 2 + ["races"] * 4 + ["ride"] * 4),
    okvqa_annotation(ASKED[1], ["pony tail"] * 8 + ["bun"] * 2, ["pony tails"] * 8 + ["bun"] * 2, kind="two"),
]


def photographs(root: Path, pattern: str) -> None:
    for image_id in (297147, 339761):
        put(root / pattern.format(id=image_id), noise(image_id))


def okvqa(folder: Path, questions: list[Any] | None = None, annotations: list[Any] | None = None, **fields: Any) -> Any:
    files = put_okvqa(folder, "val2014", questions or ASKED, annotations or TOLD)
    return VqaSource(**{**files, "image_root": str(folder / "coco"), **fields})


def test_okvqas_files(tmp_path: Path) -> None:
    photographs(tmp_path / "coco", "val2014/COCO_val2014_{id:012d}.jpg")
    table = open_vqa([okvqa(tmp_path)])
    assert table.questions[1] == {
        "question_id": 3397615,
        "image": 1,
        "question": "What are these called?",
        "answers": ["pony tail"] * 8 + ["bun"] * 2,
        "weight": 1.0,
        "answer_type": "other",
        "question_type": "Brands, Companies and Products",
    }
    name = "OpenEnded_mscoco_val2014_questions.json"
    assert table.notes == (f"{name}: answers are those under 'answer', stemmed, as OK-VQA's evaluation scores them",)
    raw = open_vqa([okvqa(tmp_path, answer_field="raw_answer")])
    assert raw.questions["answers"][0] == ["racing"] * 2 + ["races"] * 4 + ["ride"] * 4
    assert raw.notes == (f"{name}: answers are those under 'raw_answer', as people wrote them",)
    assert not table.choices and not table.skipped
    assert frequent_answers(table, 4) == ["pony tail", "race", "ride"]
    with pytest.raises(DataError, match=r"no training answer was given 9 times, .*; lower data\.least_answers"):
        frequent_answers(table, 9)


LAYOUTS = [
    "COCO_val2014_{id:012d}.jpg",
    "train2014/COCO_train2014_{id:012d}.jpg",
    "train2017/{id:012d}.jpg",
    "val2017/{id:012d}.jpg",
    "images/val2014/COCO_val2014_{id:012d}.jpg",
    "images/train2017/{id:012d}.jpg",
    "{id:012d}.jpg",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_photographs_lie_in_any_of_cocos_layouts(tmp_path: Path, layout: str) -> None:
    photographs(tmp_path / "coco", layout)
    table = open_vqa([okvqa(tmp_path)])
    assert len(table) == 2 and len(table.images) == 2
    assert table.images.rows[0]["image"]["path"] == str(tmp_path / "coco" / layout.format(id=297147))
    lie = "OpenEnded_mscoco_val2014_questions.json: 2 images lie as " + layout
    assert table.notes[0] == f"{lie} below {tmp_path / 'coco'}"
    entries = [aokvqa_entry("a", 297147, "What?", ["b", "c"], 0, ["b"])]
    file = put_json(tmp_path / "aokvqa_v1p0_val.json", entries)
    found = open_vqa([VqaSource(questions=str(file), image_root=str(tmp_path / "coco"))])
    assert found.images.rows[0]["image"]["path"] == str(tmp_path / "coco" / layout.format(id=297147))
    assert bool(found.notes) == (layout != "val2017/{id:012d}.jpg")


def test_a_stated_pattern_is_the_only_one(tmp_path: Path) -> None:
    photographs(tmp_path / "coco", "train2017/{id:012d}.jpg")
    with pytest.raises(DataError, match=r"2 of 2 images .* are missing, .*297147\.png, .*; check image_root and the"):
        open_vqa([okvqa(tmp_path, image_pattern="{subtype}/{id}.png")])
    with pytest.raises(DataError, match=r"2 of 2 images .* are missing, .*nowhere/val2014/COCO_val2014_0.*; check"):
        open_vqa([okvqa(tmp_path, image_root=str(tmp_path / "nowhere"))])


def broken(change: str) -> tuple[list[Any], list[Any]]:
    asked, told = [dict(one) for one in ASKED], [{**one, "answers": [dict(a) for a in one["answers"]]} for one in TOLD]
    if change == "question twice":
        asked.append(asked[0])
    elif change == "annotation twice":
        told.append(told[0])
    elif change == "no annotation":
        del told[1]
    elif change == "no question":
        del asked[1]
    elif change == "no raw answer":
        del told[0]["answers"][1]["raw_answer"]
    return asked, told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("question twice", r"OpenEnded_mscoco_val2014_questions\.json has a question_id twice, 2971475; each question"),
        ("annotation twice", r"annotations\.json annotation 3 is the second of question 2971475; leave one of them"),
        ("no annotation", r"question 2 \(id 3397615\) has no annotation; are the two files of one split\?"),
        ("no question", r"1 annotations answer no question of OpenEnded_mscoco_val2014_questions\.json; are the files"),
        ("no raw answer", r"annotations\.json annotation 1: raw_answer is not a text but None; repair it"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, change: str, message: str) -> None:
    photographs(tmp_path / "coco", "val2014/COCO_val2014_{id:012d}.jpg")
    asked, told = broken(change)
    with pytest.raises(DataError, match=message) as caught:
        open_vqa([okvqa(tmp_path, asked, told, answer_field="raw_answer")])
    assert "\n" not in str(caught.value)


def test_empty_answers_agree_with_nothing_and_are_listed(tmp_path: Path) -> None:
    photographs(tmp_path / "coco", "val2014/COCO_val2014_{id:012d}.jpg")
    told = [okvqa_annotation(ASKED[0], ["race"] * 8 + ["", " "]), okvqa_annotation(ASKED[1], [""] * 10)]
    table = open_vqa([okvqa(tmp_path, annotations=told)])
    assert table.questions["answers"][0] == ["race"] * 8 + [UNSTATED] * 2 and table.questions["answers"][1] == []
    assert [why for _, why in table.skipped] == [
        "2 of 10 answers are empty, and agree with no other",
        "10 of 10 answers are empty, and agree with no other",
    ]
    assert len(table.answered()) == 1
    sample = VqaDataset(table)[0]
    assert sample.answers == ["race"] and sample.weights == [pytest.approx(0.8)]


CAB = ["ride", "ride", "bus", "taxi", "travelling", "traffic", "taxi", "cab", "cab", "his ride"]
ENTRY = aokvqa_entry(
    "22MexNkBPpdZGX6sxbxVBH", 299207, "What is he awaiting?", ["skateboarder", "train", "delivery", "cab"], 3, CAB
)


def aokvqa(folder: Path, *entries: Any, lines: bool = False, **fields: Any) -> VqaTable:
    put(folder / "val2017" / "000000299207.jpg", noise(1))
    put(folder / "test2017" / "000000299207.jpg", noise(2))
    file = (put_jsonl if lines else put_json)(folder / "aokvqa_v1p0_val.json", list(entries))
    return open_vqa([VqaSource(questions=str(file), image_root=str(folder), **fields)])


@pytest.mark.parametrize("lines", [False, True])
def test_aokvqas_file(tmp_path: Path, lines: bool) -> None:
    table = aokvqa(tmp_path, ENTRY, without_answers({**ENTRY, "question_id": "1"}), lines=lines)
    assert table.questions["answers"][:] == [CAB, []] and len(table.answered()) == 1
    first, second = table.questions["question_id"]
    assert table.stated_ids == {first: "22MexNkBPpdZGX6sxbxVBH", second: "1"}
    texts = ("skateboarder", "train", "delivery", "cab")
    assert table.choices == {first: Choices(texts, 3, False), second: Choices(texts, None, False)}
    paths = [Path(row["image"]["path"]) for row in table.images.rows]
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "val2017/000000299207.jpg",
        "test2017/000000299207.jpg",
    ]
    sample = VqaDataset(table)[0]
    assert sample.choices == texts and sample.answers[:3] == ["cab", "ride", "taxi"]


def test_answers_of_aokvqa_stay_as_people_wrote_them(tmp_path: Path) -> None:
    """Its evaluation compares to the letter: who says "2" where people wrote "two" is wrong."""
    entry = {**ENTRY, "direct_answers": ["two"] * 5 + ["t-shirt "] * 3 + ["The cab"] * 2}
    table = aokvqa(tmp_path, entry)
    assert VqaDataset(table)[0].answers == ["two", "t-shirt", "The cab"]
    assert frequent_answers(table, 3) == ["two", "t-shirt"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"choices": None}, "choices are no list of two texts or more but None"),
        ({"choices": ["cab"]}, "choices are no list of two texts or more but ['cab']"),
        ({"choices": ["cab", ""]}, "choices are no list of two texts or more but ['cab', '']"),
        ({"correct_choice_idx": 4}, "correct_choice_idx is 4, but there are 4 choices, from 0"),
        ({"correct_choice_idx": "3"}, "correct_choice_idx is '3', but there are 4 choices"),
        ({"direct_answers": "cab"}, "direct_answers are no list but 'cab'"),
        ({"difficult_direct_answer": "no"}, "difficult_direct_answer is 'no'; it must be true or false"),
        ({"image_id": None}, "names no image but None"),
    ],
)
def test_an_entry_that_cannot_be_used_is_left_out_and_listed(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    others = [{**ENTRY, "question_id": f"other-{number}"} for number in range(2)]
    table = aokvqa(tmp_path, *others, {**ENTRY, **change})
    assert len(table) == 2 and table.skipped[0][0] == "aokvqa_v1p0_val.json entry 3" and why in table.skipped[0][1]
    with pytest.raises(DataError, match=r"1 of 1 entries of aokvqa_v1p0_val\.json cannot be used; the first: "):
        aokvqa(tmp_path, {**ENTRY, **change})


def test_ids_and_empty_answers_of_aokvqa(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"aokvqa_v1p0_val\.json has a question_id twice, 22MexNkBPpdZGX6sxbxVBH; each"):
        aokvqa(tmp_path, ENTRY, ENTRY)
    table = aokvqa(tmp_path, {**ENTRY, "direct_answers": ["cab"] * 9 + [""]})
    assert table.questions["answers"][0] == ["cab"] * 9 and "answer is neither a text nor" in table.skipped[0][1]
    with pytest.raises(DataError, match="is a list with answers of its own; leave annotations out"):
        aokvqa(tmp_path, ENTRY, annotations="x.json")


def test_a_path_that_is_stated_wins(tmp_path: Path) -> None:
    put(tmp_path / "mine" / "a.jpg", noise(3))
    table = aokvqa(tmp_path, {**ENTRY, "image": "mine/a.jpg"})
    assert table.images.rows[0]["image"]["path"].endswith("mine/a.jpg") and len(table.choices) == 1
