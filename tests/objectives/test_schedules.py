import pytest

from truepair.errors import ConfigError
from truepair.objectives.schedules import Schedule


@pytest.mark.parametrize(
    ("shape", "values"),
    [("constant", [1.0, 1.0, 1.0, 1.0]), ("linear", [1.0, 0.75, 0.5, 0.0]), ("cosine", [1.0, 0.8535533906, 0.5, 0.0])],
)
def test_shapes(shape: str, values: list[float]) -> None:
    schedule = Schedule(shape)
    assert [schedule.at(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(values)


def test_ramp_of_albefs_distillation() -> None:
    ramp = Schedule("linear", 0.0, 0.4, until=1 / 30)
    assert [ramp.at(p) for p in (0.0, 1 / 60, 1 / 30, 0.5, 1.0)] == pytest.approx([0.0, 0.2, 0.4, 0.4, 0.4])


def test_stays_within_its_ends() -> None:
    assert Schedule("linear").at(-0.1) == 1.0
    assert Schedule("cosine").at(1.5) == 0.0


def test_wrong_options_say_so() -> None:
    with pytest.raises(ConfigError, match="constant, linear, cosine"):
        Schedule("step")
    with pytest.raises(ConfigError, match="above 0"):
        Schedule(until=0.0)
