import pytest

from truepair.reports.study.view import StudyCurves


def row(epoch, value, *, arm="GRIT", name="mi_negative", seed=0):
    return {"arm": arm, "data": "a", "data_seed": 0, "seed": seed, "epoch": epoch, "name": name, "value": value}


def test_means_over_the_cells_by_epoch():
    curves = StudyCurves([row(2, 5.0), row(1, 1.0), row(1, 3.0, seed=1), row(1, 9.0, arm="other")])
    (line,) = curves.line("GRIT", "a", "mi_negative")
    assert (line.name, line.x, line.y) == ("GRIT", [1.0, 2.0], [2.0, 5.0])
    assert curves.last("GRIT", "a", "mi_negative") == 5.0
    assert curves.line("GRIT", "b", "mi_negative") == []
    assert curves.last("GRIT", "a", "mi_positive") is None


def test_bins_are_shares_of_the_last_epoch():
    rows = [
        row(1, 9.0, name="srcl_weights/00"),
        row(2, 1.0, name="srcl_weights/00"),
        row(2, 3.0, name="srcl_weights/01"),
    ]
    assert StudyCurves(rows).bins("GRIT", "a", "srcl_weights") == pytest.approx([25.0, 75.0])
    assert StudyCurves(rows).bins("other", "a", "srcl_weights") == []


def test_a_study_may_have_none(tmp_path):
    assert StudyCurves.read(tmp_path / "curves.parquet").line("GRIT", "a", "x") == []


def test_a_band_holds_the_runs_of_each_epoch():
    curves = StudyCurves([row(1, 1.0), row(1, 3.0, seed=1), row(2, 5.0), row(2, 4.0, seed=1)])
    (band,) = curves.band("GRIT", "a", "mi_negative")
    assert (band.name, band.x, band.low, band.mean, band.high) == ("GRIT", [1, 2], [1, 4], [2, 4.5], [3, 5])
    assert curves.band("other", "a", "mi_negative") == []
