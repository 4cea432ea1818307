"""What docs/study.md says holds."""

import re
from pathlib import Path

import yaml

from truepair.reports.study.detectors import SHOWN_RECALLS, read_detectors
from truepair.tasks.study.config import QUESTION_ARMS, StudyConfig
from truepair.tasks.study.statistics import RESAMPLES

TEXT = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)[0]


def test_its_study_file_is_one() -> None:
    study = StudyConfig.from_values(yaml.safe_load(block("yaml")), "docs/study.md")
    assert study.ceiling in study.arms
    assert study.questions["srcl"].pairs == [["SRCL own", "S-ITC 0.3"]]


def test_its_detectors_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "detectors.json").write_text(block("json"), encoding="utf-8")
    found = read_detectors(tmp_path / "detectors.json")
    assert found is not None
    assert set(found["detectors"][0]["precision_at_recall"]) == set(SHOWN_RECALLS)


def test_its_table_of_questions_is_that_of_the_page() -> None:
    for key, terms in QUESTION_ARMS.items():
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{key}` |"))
        assert all(term == "*" or f"`{term}`" in row for term in terms)
    assert f"{RESAMPLES:,} times" in TEXT
