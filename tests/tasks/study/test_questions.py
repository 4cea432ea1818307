import pytest

from truepair.errors import ConfigError
from truepair.tasks.study.config import QuestionArms


def test_a_pair_has_two_arms():
    assert QuestionArms(arms=["SRCL*"], pairs=[["a", "b"]]).pairs == [["a", "b"]]
    with pytest.raises(ConfigError, match=r"pairs holds \['a', 'b', 'c'\]"):
        QuestionArms(pairs=[["a", "b", "c"]])
