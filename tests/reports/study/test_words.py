import pytest

from truepair.reports.study.words import counted, gain_cell, listed, number, share_cell, signed
from truepair.tasks.study.statistics import PairedDifference, RecoveredShare


@pytest.mark.parametrize(
    ("value", "plain", "shown"),
    [
        (1.25, "1.2", "+1.2"),
        (-0.34, "\N{MINUS SIGN}0.3", "\N{MINUS SIGN}0.3"),
        (0.0, "0.0", "0.0"),
        (-0.04, "0.0", "0.0"),
        (0.04, "0.0", "0.0"),
    ],
)
def test_numbers_have_a_proper_minus_and_no_negative_zero(value, plain, shown):
    assert number(value) == plain
    assert signed(value) == shown


def test_gains_and_shares():
    assert gain_cell(PairedDifference(3.84, 0.4, 3.06, -4.5, 15, 15)) == ("+3.8", "3.1 to \N{MINUS SIGN}4.5")
    assert gain_cell(PairedDifference(3.84, None, 3.84, 3.84, 1, 1)) == ("+3.8", "1 run")
    assert share_cell(RecoveredShare(0.615, 0.5, 0.704, 5)) == ("62 %", "50 to 70")
    assert share_cell(RecoveredShare(0.615, 0.5, 0.704, 4)) == ("62 %", "4 runs")
    assert gain_cell(None) == share_cell(None) == ("\N{EN DASH}", "")


def test_lists_and_counts():
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert counted(1, "kind of data", "kinds of data") == "1 kind of data"
    assert counted(1200, "arm") == "1,200 arms"
