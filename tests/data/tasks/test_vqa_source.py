import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.makers import noise, put, put_json
from truepair.data.tasks.vqa_source import VqaSource, load_answer_list, open_vqa
from truepair.errors import ConfigError, DataError

# As the official files are, field for field.
QUESTIONS: dict[str, Any] = {
    "info": {"description": "This is v2.0 of the VQA dataset.", "version": "2.0", "year": 2017},
    "task_type": "Open-Ended",
    "data_type": "mscoco",
    "license": {"name": "Creative Commons Attribution 4.0 International License"},
    "data_subtype": "val2014",
    "questions": [
        {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
        {"image_id": 262148, "question": "What are the people in the background doing?", "question_id": 262148001},
        {"image_id": 393225, "question": "How many dogs are there?", "question_id": 393225000},
    ],
}


def annotation(question_id: int, answers: list[str], answer_type: str, question_type: str) -> dict[str, Any]:
    return {
        "question_type": question_type,
        "multiple_choice_answer": answers[0],
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": number}
            for number, answer in enumerate(answers, 1)
        ],
        "image_id": question_id // 1000,
        "answer_type": answer_type,
        "question_id": question_id,
    }


ANNOTATIONS: dict[str, Any] = {
    **{name: QUESTIONS[name] for name in ("info", "license", "data_subtype", "data_type")},
    "annotations": [
        annotation(393225000, ["2"] * 7 + ["two", "3", "4"], "number", "how many"),
        annotation(262148000, ["down"] * 9 + ["at table"], "other", "where is the"),
        annotation(262148001, ["watching"] * 10, "other", "what are the"),
    ],
}


def official(folder: Path, **fields: Any) -> VqaSource:
    questions = put_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", QUESTIONS)
    annotations = put_json(folder / "v2_mscoco_val2014_annotations.json", ANNOTATIONS)
    for image_id in (262148, 393225):
        put(folder / "val2014" / f"COCO_val2014_{image_id:012d}.jpg", noise(image_id))
    given = {"questions": str(questions), "annotations": str(annotations), "image_root": str(folder)}
    return VqaSource(**{**given, **fields})


def test_the_official_layout(tmp_path: Path) -> None:
    table = open_vqa([official(tmp_path)])
    assert len(table) == 3 and len(table.images) == 2
    assert table.questions[2] == {
        "question_id": 393225000,
        "image": 1,
        "question": "How many dogs are there?",
        "answers": ["2"] * 7 + ["two", "3", "4"],
        "weight": 1.0,
        "answer_type": "number",
        "question_type": "how many",
    }
    assert list(table.questions["image"]) == [0, 0, 1]
    assert table.images.rows[1]["image"]["path"].endswith("val2014/COCO_val2014_000000393225.jpg")
    assert table.images.image(0).size == noise(262148).size


def test_questions_without_answers_are_a_test_set(tmp_path: Path) -> None:
    table = open_vqa([official(tmp_path, annotations=None)])
    assert list(table.questions["answers"]) == [[], [], []] and set(table.questions["answer_type"]) == {""}


def test_another_pattern_of_image_names(tmp_path: Path) -> None:
    for image_id in (262148, 393225):
        put(tmp_path / "photos" / f"{image_id}.png", noise(1))
    source = official(tmp_path, image_root=str(tmp_path / "photos"), image_pattern="{id}.png")
    assert open_vqa([source]).images.rows[0]["image"]["path"].endswith("photos/262148.png")
    with pytest.raises(ConfigError, match=r"image_pattern is '\{split\}.png'"):
        VqaSource(questions="q", image_root=".", image_pattern="{split}.png")


def test_sources_are_joined_and_visual_genome_weighs_half(tmp_path: Path) -> None:
    put(tmp_path / "vg" / "image" / "2.jpg", noise(2))
    entries = [
        {"image": "image/2.jpg", "question": "What colour is the clock?", "answer": "green", "dataset": "vg"},
        {"image": "image/2.jpg", "question": "Is it day?", "answer": ["yes", "yes"], "question_id": 17},
    ]
    listed = put_json(tmp_path / "vg_qa.json", entries)
    genome = VqaSource(questions=str(listed), image_root=str(tmp_path / "vg"), answer_weight=0.5)
    table = open_vqa([official(tmp_path), genome])
    assert list(table.questions["image"]) == [0, 0, 1, 2, 2] and len(table.images) == 3
    assert list(table.questions["answers"])[3:] == [["green"], ["yes", "yes"]]
    assert list(table.questions["weight"]) == [1, 1, 1, 0.5, 0.5]
    assert list(table.questions["question_id"])[3:] == [-1, 17]
    more = put_json(tmp_path / "more_qa.json", entries[:1])
    twice = open_vqa([genome, VqaSource(questions=str(more), image_root=str(tmp_path / "vg"))])
    assert list(twice.questions["question_id"]) == [-1, 17, -2]


def test_ids_of_images_do_not_depend_on_where_they_lie(tmp_path: Path) -> None:
    first, second = (open_vqa([official(tmp_path / name)]).images for name in ("here", "there"))
    assert first.image_ids.tolist() == second.image_ids.tolist() and len(set(first.image_ids.tolist())) == 2


def broken(change: str) -> tuple[Any, Any]:
    questions, annotations = json.loads(json.dumps(QUESTIONS)), json.loads(json.dumps(ANNOTATIONS))
    if change == "no questions":
        del questions["questions"]
    elif change == "no id":
        del questions["questions"][1]["question_id"]
    elif change == "empty question":
        questions["questions"][1]["question"] = " "
    elif change == "no annotation":
        del annotations["annotations"][0]
    elif change == "other split":
        del questions["questions"][0]
    elif change == "no answers":
        annotations["annotations"][1]["answers"] = []
    elif change == "no answer text":
        annotations["annotations"][1]["answers"][3] = {"answer_id": 4}
    return questions, annotations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no questions", "q.json has no list of objects under 'questions'"),
        ("no id", "q.json question 2: question_id is not an integer but None"),
        ("empty question", "q.json question 2: question is not a text but ' '"),
        ("no annotation", r"q.json question 3 \(id 393225000\) has no annotation; are the two files of one split"),
        ("other split", "1 annotations answer no question of q.json"),
        ("no answers", "a.json annotation 2 has no list of answers, texts or objects"),
        ("no answer text", "a.json annotation 2: answer is not a text but None"),
    ],
)
def test_broken_files_are_named_in_one_line(tmp_path: Path, change: str, message: str) -> None:
    questions, annotations = broken(change)
    source = official(
        tmp_path,
        questions=str(put_json(tmp_path / "q.json", questions)),
        annotations=str(put_json(tmp_path / "a.json", annotations)),
    )
    with pytest.raises(DataError, match=message) as caught:
        open_vqa([source])
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        open_vqa([official(tmp_path, annotations=str(tmp_path / "none.json"))])
    with pytest.raises(DataError, match=r"2 of 2 images of .* are missing, .*000000262148\.jpg, .*; check image_root"):
        open_vqa([official(tmp_path, image_root=str(tmp_path / "elsewhere"))])
    with pytest.raises(DataError, match="names no images"):
        open_vqa([])
    with pytest.raises(DataError, match="question_id twice"):
        open_vqa([official(tmp_path), official(tmp_path)])


def test_answer_list(tmp_path: Path) -> None:
    assert load_answer_list(put_json(tmp_path / "answer_list.json", ["net", "2"])) == ["net", "2"]
    for content, message in (({"net": 0}, "no JSON list"), ([], "no JSON list"), (["a", "a"], "an answer twice")):
        with pytest.raises(DataError, match=message):
            load_answer_list(put_json(tmp_path / "answer_list.json", content))


def test_official_answers_may_be_texts(tmp_path: Path) -> None:
    plain = json.loads(json.dumps(ANNOTATIONS))
    for entry in plain["annotations"]:
        entry["answers"] = [answer["answer"] for answer in entry["answers"]]
    texts = official(tmp_path, annotations=str(put_json(tmp_path / "texts.json", plain)))
    assert open_vqa([texts]).questions["answers"] == open_vqa([official(tmp_path)]).questions["answers"]
