import pytest

from truepair.errors import ConfigError
from truepair.evaluation import precision_at


def test_precision_at_known_depths():
    found = precision_at([True, True, False, None, True], depths=(1, 3, 4, 50))
    assert [(p.depth, p.judged, p.true) for p in found] == [(1, 1, 1), (3, 3, 2), (4, 3, 2), (50, 4, 3)]
    assert found[1].value == pytest.approx(2 / 3)


def test_nothing_judged_is_not_zero():
    assert precision_at([None], depths=(5,))[0].value is None
    assert precision_at([], depths=(5,))[0].value is None


def test_depth_must_be_positive():
    with pytest.raises(ConfigError, match="depths of 1 or more"):
        precision_at([True], depths=(0, 5))
