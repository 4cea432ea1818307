import json

import pytest

from tests.reports.study.made_up import DETECTORS
from truepair.errors import DataError
from truepair.reports.study.detectors import answer_detectors, detector_figure, read_detectors


def test_figures_of_each_detector(tmp_path):
    path = tmp_path / "detectors.json"
    path.write_text(json.dumps(DETECTORS))
    found = read_detectors(path)
    answer = answer_detectors(found)
    (table,) = answer.tables
    assert [name for name, _ in table.rows] == ["caption similarity", "con-D", "both, calibrated"]
    assert [cell.text for cell in table.rows[0][1]] == ["0.964", "0.530", "0.900", "0.800", "0.530"]
    assert [cell.small for cell in table.rows[0][1]] == ["", "0.510 to 0.550", "", "", ""]
    assert "5,822 judged pairs, 1,016 of them matches" in answer.sentences[0]
    assert "reaches the aim of 0.70" in answer.sentences[0]
    assert detector_figure(found)[0].value == "0.710"
    worse = DETECTORS | {"detectors": DETECTORS["detectors"][:2]}
    assert "misses the aim" in answer_detectors(worse).sentences[0]


def test_no_file_no_figures(tmp_path):
    assert read_detectors(tmp_path / "detectors.json") is None
    assert answer_detectors(None).drawings == []
    assert detector_figure(None) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"detectors": 3}',
        json.dumps(DETECTORS | {"pairs": "many"}),
        json.dumps({"detectors": [{"auc": 1}]}),
    ],
)
def test_files_of_another_form(tmp_path, text):
    path = tmp_path / "detectors.json"
    path.write_text(text)
    with pytest.raises(DataError, match="detectors cannot be read"):
        read_detectors(path)
