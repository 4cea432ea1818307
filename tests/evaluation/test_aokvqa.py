"""Figures of OK-VQA and A-OKVQA beside their evaluation programs, written out as those compute."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from truepair.errors import DataError
from truepair.evaluation.aokvqa import GivenAnswer, aokvqa_accuracy, direct_answer_accuracy, write_aokvqa_predictions
from truepair.evaluation.vqa import answer_accuracy, vqa_accuracy

WORDS = [
    "cab",
    "taxi",
    "a taxi",
    "two",
    "2",
    "t-shirt",
    "t shirt",
    "The cab.",
    "dont know",
    "don't know",
    "1,000",
    "cab",
]


def slow_aokvqa(entries: dict[str, dict[str, Any]], said: dict[str, str], *, among: bool) -> float:
    """Allen AI's program: difficult questions are left out of direct answers, and a missing prediction is wrong."""
    if not among:
        entries = {name: entry for name, entry in entries.items() if entry["difficult_direct_answer"] is False}
    scores = []
    for name, entry in entries.items():
        if name not in said:
            scores.append(0.0)
        elif among:
            scores.append(float(said[name] == entry["choices"][entry["correct_choice_idx"]]))
        else:
            matches = 0
            for answer in entry["direct_answers"]:
                if answer == said[name]:
                    matches += 1
            scores.append(min(1.0, matches / 3.0))
    return sum(scores) / len(scores)


def test_both_figures_are_those_of_the_program(tmp_path: Path) -> None:
    chance = random.Random(0)
    entries, given = {}, {}
    for number in range(200):
        entries[f"q-{number}"] = {
            "choices": chance.sample(WORDS[:8], 4),
            "correct_choice_idx": chance.randrange(4),
            "direct_answers": chance.choices(WORDS, k=10),
            "difficult_direct_answer": chance.random() < 0.2,
        }
        given[number] = GivenAnswer(chance.choice(WORDS), chance.choice(entries[f"q-{number}"]["choices"]))
    answers = {number: entries[f"q-{number}"]["direct_answers"] for number in given}
    right = {
        number: one["choices"][one["correct_choice_idx"]] for number, one in zip(given, entries.values(), strict=True)
    }
    difficult = [number for number in given if entries[f"q-{number}"]["difficult_direct_answer"]]
    write_aokvqa_predictions(given, tmp_path / "predictions.json", {number: f"q-{number}" for number in given})
    said = json.loads((tmp_path / "predictions.json").read_text())
    assert list(said) == list(entries) and all(
        set(one) == {"multiple_choice", "direct_answer"} for one in said.values()
    )
    found = aokvqa_accuracy(given, answers, right, left_out=difficult)
    chosen, direct = ({name: one[kind] for name, one in said.items()} for kind in ("multiple_choice", "direct_answer"))
    assert found.multiple_choice == pytest.approx(slow_aokvqa(entries, chosen, among=True), abs=1e-12)
    assert found.direct_answer == pytest.approx(slow_aokvqa(entries, direct, among=False), abs=1e-12)
    assert found.choice_questions == 200 and found.direct_questions == 200 - len(difficult) < 200
    easy = {name: {**entry, "difficult_direct_answer": False} for name, entry in entries.items()}
    every = aokvqa_accuracy(given, answers, right)
    assert every.direct_answer == pytest.approx(slow_aokvqa(easy, direct, among=False), abs=1e-12)
    assert every.direct_questions == 200 and every.direct_answer != found.direct_answer


@pytest.mark.parametrize(("said", "expected"), [("cab", 2 / 3), ("taxi", 1.0), ("Cab", 0.0), ("bus", 1 / 3), ("", 0.0)])
def test_direct_answers_are_compared_to_the_letter(said: str, expected: float) -> None:
    assert direct_answer_accuracy(said, ["cab"] * 2 + ["taxi"] * 4 + ["bus"] + ["ride"] * 3) == pytest.approx(expected)


def test_what_is_unknown_has_no_figure_and_gaps_are_errors() -> None:
    right, given = {1: None, 2: "b"}, {1: GivenAnswer("a", "a"), 2: GivenAnswer("a", "b")}
    found = aokvqa_accuracy(given, {1: [], 2: ["a"] * 10}, right, left_out=[2])
    assert (found.multiple_choice, found.choice_questions) == (1.0, 1)
    assert (found.direct_answer, found.direct_questions) == (None, 0)
    with pytest.raises(DataError, match="1 of 2 questions have no prediction"):
        aokvqa_accuracy({1: given[1]}, {}, right)


MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
SHORT = {"dont": "don't", "isnt": "isn't", "thats": "that's"}


def slow_normal(text: str) -> str:
    """What VQA's program, which OK-VQA is scored by, makes of an answer."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    out = text
    for mark in MARKS:
        if mark + " " in text or " " + mark in text or re.search(r"\d,\d", text):
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    out = re.sub(r"\.(?!\d)", "", out)
    words = []
    for word in out.lower().split():
        number = "0" if word == "none" else str(NUMBERS.index(word)) if word in NUMBERS else word
        if number not in ("a", "an", "the"):
            words.append(SHORT.get(number, number))
    return " ".join(words)


def slow_vqa(said: str, answers: list[str]) -> float:
    """VQA's program: ten times the agreement with the nine others, over three and at most 1."""
    scores = []
    for left_out in range(len(answers)):
        others = [answer for place, answer in enumerate(answers) if place != left_out]
        matches = [answer for answer in others if slow_normal(answer) == slow_normal(said)]
        scores.append(min(1.0, len(matches) / 3))
    return sum(scores) / len(scores)


def test_okvqa_is_scored_as_vqas_program_does() -> None:
    chance = random.Random(1)
    said, answers = {}, {}
    for number in range(300):
        five = chance.choices(WORDS, k=5)
        answers[number] = [answer for answer in five for _ in range(2)]  # five people, each twice
        said[number] = chance.choice(WORDS)
        assert answer_accuracy(said[number], answers[number]) == pytest.approx(slow_vqa(said[number], answers[number]))
    expected = sum(slow_vqa(said[number], answers[number]) for number in answers) / len(answers)
    assert vqa_accuracy(said, answers).overall == pytest.approx(expected)
    assert {round(slow_vqa(said[number], answers[number]), 6) for number in answers} >= {0.0, 0.6, 1.0}
