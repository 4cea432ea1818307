import itertools
import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truepair.errors import DataError
from truepair.evaluation.vqa import answer_accuracy, vqa_accuracy, write_vqa_results
from truepair.relations.text import UNSTATED


@given(st.lists(st.sampled_from(["yes", "no", "maybe"]), min_size=10, max_size=10))
def test_is_the_mean_over_all_groups_of_nine(answers):
    """The published description: average min(#agreeing / 3, 1) over all subsets of nine of the ten people."""
    subsets = itertools.combinations(range(10), 9)
    expected = statistics.mean(min(sum(answers[i] == "yes" for i in nine) / 3, 1) for nine in subsets)
    assert answer_accuracy("yes", answers) == pytest.approx(expected)


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_known_values(agreeing, expected):
    answers = ["net"] * agreeing + ["mesh"] * (10 - agreeing)
    assert answer_accuracy("a Net.", answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [(["net"], 1), (["web"], 0), (["net", "net"], 1), (["net", "web"], 0.5), (["net", "net", "web"], 2 / 3)],
)
def test_of_few_answers_all_others_are_enough(answers, expected):
    assert answer_accuracy("net", answers) == pytest.approx(expected)


def test_what_is_not_stated_agrees_with_nothing():
    assert answer_accuracy("net", ["net", "net", *[UNSTATED] * 8]) == pytest.approx(0.6)
    assert answer_accuracy("the", ["net", *[UNSTATED] * 9]) == 0


def test_types_are_averaged_apart():
    answers = {1: ["yes"] * 10, 2: ["no"] * 10, 3: ["2"] * 10}
    found = vqa_accuracy(
        {1: "yes", 2: "yes", 3: "two", 4: "not asked"},
        answers,
        answer_types={1: "yes/no", 2: "yes/no", 3: "number"},
        question_types={1: "is", 2: "are", 3: "how many", 9: "what"},
    )
    assert found.overall == pytest.approx(2 / 3) and found.questions == 3
    assert found.by_answer_type == {"number": 1.0, "yes/no": 0.5}
    assert found.by_question_type == {"are": 0.0, "how many": 1.0, "is": 1.0}


def test_gaps_are_errors():
    with pytest.raises(DataError, match="1 of 2 questions have no prediction"):
        vqa_accuracy({1: "yes"}, {1: ["yes"], 2: ["no"]})
    with pytest.raises(DataError, match="no human answers"):
        answer_accuracy("yes", [])


def test_results_are_in_the_form_of_the_server(tmp_path):
    write_vqa_results({7: "net", 5: "2"}, tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {"question_id": 5, "answer": "2"},
        {"question_id": 7, "answer": "net"},
    ]
