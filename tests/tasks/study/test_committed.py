"""The committed results of the studies are read by today's code, and say what their tables say."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from truepair.reports.study.tables import arm_tables, markdown
from truepair.reports.study.view import StudyCurves, StudyView
from truepair.tasks.study.config import StudyConfig
from truepair.tasks.study.results import RESULT_SCHEMA
from truepair.tasks.study.table import FORMER_NAMES, StudyTable

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
STUDIES = sorted(path.parent.name for path in EXPERIMENTS.glob("results/*/results.parquet"))


def study_of(name: str) -> StudyConfig:
    """The study's own file, without the layers it may lie on."""
    values = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text(encoding="utf-8"))
    return StudyConfig.from_values(values, name)


@pytest.mark.parametrize("name", STUDIES)
def test_a_committed_table_is_that_of_its_results(name: str) -> None:
    study, folder = study_of(name), EXPERIMENTS / "results" / name
    for column in pq.read_schema(folder / "results.parquet"):
        assert column.equals(RESULT_SCHEMA.field(column.name))
    table = StudyTable.read(folder / "results.parquet", list(study.arms))
    assert set(table.arms) == set(study.arms)
    view = StudyView(table, StudyCurves(), study.reference, study.ceiling, study.questions)
    committed = (folder / "table.md").read_text(encoding="utf-8")
    for arms in arm_tables(view):
        assert markdown(arms) in committed + "\n"


def test_results_by_their_former_names_are_read(tmp_path: Path) -> None:
    today = pq.read_table(EXPERIMENTS / "results" / "fusion" / "results.parquet")
    former = {new: old for old, new in FORMER_NAMES.items()}
    old = today.rename_columns([former.get(name, name) for name in today.column_names])
    assert {"ga", "itm_ga"} <= set(old.column_names)
    pq.write_table(old, tmp_path / "results.parquet")
    assert StudyTable.read(tmp_path / "results.parquet").rows == today.to_pylist()
