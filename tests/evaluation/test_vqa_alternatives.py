"""The baseline that reads questions which name their answers."""

from truepair.evaluation.vqa import AlternativesBaseline

BASELINE = AlternativesBaseline(
    ["Is it red?", "Does this show a hat?"], ["no", "yes"], ["red fox", "hot dog", "dog", "no"]
)


def test_the_first_named_answer_is_taken() -> None:
    assert BASELINE.answer(["Does this show hot dog or red fox?"]) == ["hot dog"], "the longest that is known"
    assert BASELINE.answer(["Does this show red fox or dog?"]) == ["red fox"]


def test_other_questions_are_answered_as_in_training() -> None:
    assert BASELINE.answer(["Is it red?", "Is it big?", "Does this show cat or mouse?"]) == ["no", "no", "yes"]
