"""Whole runs that must not differ: on one and on four ranks, and with a batch taken in parts."""

from pathlib import Path

import pytest

from tests.engine.processes import run_ranks
from tests.tasks.squares_run import SquaresRun
from truepair.engine.logs.log import read_log

LOSSES = ("loss", "itc", "itm", "mlm", "temperature", "gradient_norm")


@pytest.fixture(scope="module")
def alone(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The steps of the run on one rank."""
    folder = tmp_path_factory.mktemp("alone")
    SquaresRun(squares, folder).go()
    return steps(folder)


def steps(folder: Path) -> list[dict[str, float]]:
    """Losses and gradient norm of each step."""
    records = [record for record in read_log(folder / "log.jsonl") if record["kind"] == "step"]
    return [{name: record[name] for name in LOSSES if name in record} for record in records]


def check(folder: Path, expected: list[dict[str, float]]) -> None:
    """A run had the steps that are expected; rounding grows from step to step, as the weights drift apart."""
    found = steps(folder)
    assert len(found) == len(expected) == 8
    assert set(expected[-1]) == set(LOSSES)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_four_ranks_have_the_losses_of_one(squares: Path, tmp_path: Path, alone: list[dict[str, float]]) -> None:
    assert run_ranks([SquaresRun(squares, tmp_path, ranks=4)] * 4, limit=280) == [0] * 4
    check(tmp_path, alone)


def test_parts_of_a_batch_have_the_losses_of_the_whole(
    squares: Path, tmp_path: Path, alone: list[dict[str, float]]
) -> None:
    SquaresRun(squares, tmp_path, loop={"micro_batch": 3}).go()
    check(tmp_path, alone)
