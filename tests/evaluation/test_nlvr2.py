import pytest

from truepair.errors import DataError
from truepair.evaluation.nlvr2 import nlvr2_metrics, write_nlvr2_results

LABELS = {"dev-0-0-0": True, "dev-0-1-0": False, "dev-0-0-1": True, "dev-1-0-0": False}


def test_a_sentence_is_right_only_for_all_its_pairs_of_images():
    found = nlvr2_metrics({**LABELS, "dev-0-1-0": True}, LABELS)
    assert found.accuracy == 3 / 4 and found.consistency == pytest.approx(2 / 3)
    assert (found.statements, found.sentences) == (4, 3)
    assert nlvr2_metrics(LABELS, LABELS).consistency == 1


def test_gaps_are_errors():
    with pytest.raises(DataError, match="1 of 4 statements have no judgement"):
        nlvr2_metrics(dict.fromkeys(list(LABELS)[1:], True), LABELS)
    with pytest.raises(DataError, match="must read split-set-pair-sentence"):
        nlvr2_metrics({"dev-0": True}, {"dev-0": True})


def test_results_are_in_the_form_of_the_scorer(tmp_path):
    write_nlvr2_results({"dev-1-0-0": False, "dev-0-0-0": True}, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "dev-0-0-0,True\ndev-1-0-0,False\n"
