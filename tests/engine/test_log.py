import json
from pathlib import Path

from truepair.engine.logs.log import JsonlLog, read_log


def test_rewind_forgets_later_records_and_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "run" / "log.jsonl"
    with JsonlLog(path) as log:
        for step in (1, 2, 3):
            log.write("step", step, loss=step / 2)
    with path.open("a") as file:
        file.write('{"kind": "step", "st')
    assert [record["step"] for record in read_log(path)] == [1, 2, 3]
    with JsonlLog(path) as log:
        log.rewind(2)
        log.write("step", 3, loss=9.0)
    assert [(record["step"], record["loss"]) for record in read_log(path)] == [(1, 0.5), (2, 1.0), (3, 9.0)]


def test_missing_log_is_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none.jsonl") == []


def test_each_line_is_valid_json_where_numbers_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with JsonlLog(path) as log:
        log.write(
            "step", 1, loss=float("nan"), norm=float("inf"), parts={"itc": float("-inf"), "itm": [1.0, float("nan")]}
        )
        log.rewind(1)

    def refuse(literal: str) -> None:
        raise AssertionError(literal)

    (record,) = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert record["loss"] is None and record["norm"] is None and record["parts"] == {"itc": None, "itm": [1.0, None]}
