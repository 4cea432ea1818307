"""A study file, and what is wrong with others."""

from typing import Any

import pytest

from truepair.errors import ConfigError
from truepair.tasks.study.config import ArmConfig, StudyConfig

VALUES: dict[str, Any] = {
    "title": "Two arms",
    "recipes": ["sample", "study"],
    "reference": "plain",
    "ceiling": "known",
    "seeds": [0, 1],
    "prepare": {"judge": {"command": "judge"}, "mined": {"command": "mine", "judge": "{judge}"}},
    "arms": {"plain": None, "known": {"fields": {"objectives.itc.smoothing": 0.3}, "seeds": 1}},
    "questions": {"mafa": {"arms": ["p*"]}},
}


def test_a_study_is_read() -> None:
    study = StudyConfig.from_values(VALUES, "study.yaml")
    assert study.arms == {"plain": ArmConfig(), "known": ArmConfig(fields={"objectives.itc.smoothing": 0.3}, seeds=1)}
    assert study.data == {"all": {}} and study.data_seeds == [0]
    assert study.prepare["mined"].judge == "{judge}" and study.questions["mafa"].arms == ["p*"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"arm": {}}, r"study\.yaml: there is no field arm .*'arms'"),
        ({"arms": {"plain": {"feilds": {}}}}, r"study\.yaml: arms: plain: there is no field feilds.*'fields'"),
        ({"arms": {"plain": {"fields": []}}}, r"arms: plain: fields must be a dict, not a list"),
        ({"arms": []}, r"study\.yaml: arms must hold names and values, not a list"),
        ({"reference": "plian"}, r"the reference 'plian' is no arm of the study.*'plain'"),
        ({"ceiling": "unknown"}, r"the ceiling 'unknown' is no arm of the study.*'known'"),
        ({"arms": {"plain": {"data": ["al"]}, "known": {}}}, r"arm 'plain' names data 'al', which is not there.*'all'"),
        ({"prepare": {"judge": {"command": "juge"}}}, r"prepare: judge: prepare: there is no command 'juge'"),
        ({"prepare": {"mined": {"command": "mine"}}}, r"'judge' names the judge of the command mine"),
        ({"questions": {"maffa": {}}}, r"questions: there is no 'maffa'.*'mafa'"),
        ({"seeds": []}, r"a study needs data, data_seeds and seeds"),
        ({"title": 3}, r"title must be a str, not a int"),
        ({"seeds": ["x"]}, r"seeds is \['x'\]; give a value of type list of int"),
        ({"data_seeds": [-1]}, r"data_seeds is -1; give 0 or more"),
        ({"fields": {"loop.seed": float("nan")}}, r"fields.loop.seed is nan; give a finite number"),
    ],
)
def test_mistakes_are_one_line(change: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        StudyConfig.from_values({**VALUES, **change}, "study.yaml")
    assert "\n" not in str(caught.value)


def test_a_study_without_known_truth_has_no_ceiling() -> None:
    without = {name: value for name, value in VALUES.items() if name != "ceiling"}
    assert StudyConfig.from_values(without, "study.yaml").ceiling == ""
    with pytest.raises(ConfigError, match="the reference '' is no arm"):
        StudyConfig.from_values({**without, "reference": ""}, "study.yaml")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match=r"study\.yaml: missing 1 required keyword-only argument: 'title'"):
        StudyConfig.from_values({name: value for name, value in VALUES.items() if name != "title"}, "study.yaml")
