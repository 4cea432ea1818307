"""The time left of a run: known for what is trained now, not for what joins later."""

import pytest

from truepair.engine.logs.progress import RunProgress


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told(joins: dict[int, str], seconds: list[float]) -> list[str]:
    """What is said after each of ten steps that take so many seconds."""
    clock = Clock()
    progress = RunProgress(len(seconds), joins=joins, enabled=False, clock=clock)
    words = []
    for step, took in enumerate(seconds, start=1):
        clock.now += took
        words.append(progress.time_left(step))
    return words


def test_until_itm_joins_only_the_time_until_then_is_told() -> None:
    words = told({6: "ITM + MLM"}, [1.0] * 6 + [10.0] * 4)
    assert words[0] == "-:--:-- until ITM + MLM joins; then slower"
    assert words[1] == "0:00:04 until ITM + MLM joins; then slower"
    assert words[4] == "0:00:01 until ITM + MLM joins; then slower"
    assert words[5] == "-:--:--"  # the speed of before says nothing of now
    assert words[6:] == ["0:00:30", "0:00:20", "0:00:10", "0:00:46"]


@pytest.mark.parametrize("joins", [{}, {0: "ITM"}, {10: "ITM"}, {25: "ITM"}])
def test_what_is_there_from_the_start_or_never_joins_nothing(joins: dict[int, str]) -> None:
    words = told(joins, [2.0] * 10)
    assert words[0] == "-:--:--" and words[1] == "0:00:16" and words[-1] == "0:00:20"


def test_a_resumed_run_counts_from_where_it_went_on() -> None:
    clock = Clock()
    progress = RunProgress(100, joins={50: "ITM"}, enabled=False, clock=clock)
    progress.time_left(80)
    clock.now += 5
    assert progress.time_left(85) == "0:00:15"
