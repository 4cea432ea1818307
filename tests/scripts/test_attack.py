"""The attack: that it detects what it counts, and a short, seeded part of it.

A kind that is mended gets its line in ``PASSING``: a seed of ``scripts/attack.py --kinds KIND:N --seed S`` that
was lost, hung or ended in a traceback before, and takes seconds. All kinds, with counts, are tried by hand.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import attack
import pytest

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "scripts" / "attack.py"
SOURCE = HERE.parents[1] / "src"

# Kind: how many of its tries, of seed 0. Those whose first tries pass today.
PASSING = {"checkpoint": 2, "yaml": 4, "kill": 1}

# Kind: what is put in the place of what, so that the program is wrong in the way that the kind is about; how many tries
# of it are made, and how one of them has to end.
WRONG = {
    "kill": ("truepair.engine.state.snapshot.load_optimizer", "lambda *_, **__: None", 2, "lost: other weights"),
    "checkpoint": ("truepair.engine.state.checkpoint.find_fault", "lambda _: None", 2, "lost: not taken up again"),
}

SABOTAGE = """
import sys
from pathlib import Path
from unittest.mock import patch
import attack
folder = Path(sys.argv[1])
world = attack.prepare(None, folder)
for kind, (place, wrong, tries, _) in eval(sys.argv[2]).items():
    report = attack.Report()
    with patch(place, eval(wrong)):
        for number in range(tries):
            attack.attempt(attack.KINDS[kind], number, 0, world, folder / "tries", report)
    for one in report.tries:
        print(kind, one["outcome"], one["why"], sep=": ")
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> attack.Call:
    """A program of the shell, in place of a command; its words are its script."""
    monkeypatch.setattr(attack.Machine, "said", tmp_path)
    return attack.Call([], tmp_path / "run", program=["sh", "-c"], patience=60)


def of(call: attack.Call, script: str, **how: object) -> attack.Call:
    return attack.dataclasses.replace(call, words=[script], **how)


def test_an_end_is_its_status_and_its_words(call: attack.Call) -> None:
    done = of(call, "echo out; echo err >&2; exit 2").run()
    assert (done.status, done.out, done.err, done.last) == (2, "out\n", "err\n", "err")
    assert attack.require_refusal(of(call, "echo truepair: no >&2; exit 2").run(), "it") is None
    with pytest.raises(attack.Lost, match="it: no line"):
        attack.require_refusal(done, "it")


def test_a_hang_is_ended_with_all_that_it_started(call: attack.Call, tmp_path: Path) -> None:
    script = f"trap '' TERM; setsid sleep 1000 & echo $! > {tmp_path}/child; sleep 1000"
    with pytest.raises(attack.Hung, match=r"no end after 1 s"):
        of(call, script, patience=1).run()
    child = int((tmp_path / "child").read_text())
    for _ in range(600):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or " Z " in stat.read_text():
            return
        time.sleep(0.1)
    raise AssertionError("its child lives on")


def test_a_crash_is_no_end_unless_the_attack_sent_the_signal(call: attack.Call) -> None:
    with pytest.raises(attack.Crashed, match="SIGSEGV"):
        of(call, "kill -SEGV $$").run()
    assert of(call, "kill -KILL $$", killed=(signal.SIGKILL,)).run().status == -signal.SIGKILL


def test_a_traceback_is_found_in_files_and_on_a_terminal(call: attack.Call) -> None:
    script = f"{sys.executable} -c 'raise KeyError(5)'; exit 2"
    for how in ({}, {"terminal": True}):
        with pytest.raises(attack.Traceback, match="KeyError: 5"):
            of(call, script, **how).run()


def test_a_lost_terminal_is_an_error_of_every_write(call: attack.Call) -> None:
    running = of(call, "sleep 1; echo a; echo $? > status", terminal=True, killed=(signal.SIGHUP,)).start()
    running.hang_up()
    assert running.ended().out == ""


def test_limits_hold(call: attack.Call) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    script = f"{sys.executable} -c 'import resource; print(resource.getrlimit(resource.RLIMIT_AS)[1])'"
    most = int(of(call, script, before=[attack.address_space(512)]).run().out)
    assert 512 <= (most - pages * attack.resource.getpagesize()) / 2**20 < 1024
    assert of(call, "yes > much 2> /dev/null; exit 0", before=[attack.largest_file(1000)]).run().status == 0
    assert (call.folder / "much").stat().st_size == 1000


def test_damage_is_another_file(tmp_path: Path) -> None:
    done = set()
    for seed in range(60):
        file = tmp_path / f"{seed}"
        file.write_bytes(bytes(range(100)))
        done.add(attack.damage(file, random.Random(seed)).partition(":")[0])
        assert not file.is_file() or file.read_bytes() != bytes(range(100))
    assert done == {"cut", "flip", "empty", "noise", "folder", "gone"}


def test_a_try_of_a_number_is_the_same_again() -> None:
    kinds = [attack.Try(None, Path(), random.Random("0/a/3"), 3, shuffle="0/a") for _ in range(2)]
    assert kinds[0].pick("abcdefgh") == kinds[1].pick("abcdefgh") and kinds[0].rng.random() == kinds[1].rng.random()
    order = [attack.Try(None, Path(), random.Random(), number, shuffle="0/a").pick("abc") for number in range(3)]
    assert sorted(order) == ["a", "b", "c"]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(SOURCE), str(SCRIPT.parent)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_program_that_is_wrong_is_found(tmp_path: Path) -> None:
    call = [sys.executable, "-c", SABOTAGE, str(tmp_path / "work"), repr(WRONG)]
    done = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stderr
    assert "own fault" not in done.stdout
    for kind, (*_, end) in WRONG.items():
        assert f"{kind}: {end}" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_short_part_is_survived(tmp_path: Path) -> None:
    out = tmp_path / "attack.json"
    kinds = [f"{name}:{tries}" for name, tries in PASSING.items()]
    call = [sys.executable, str(SCRIPT), "--kinds", *kinds, "--minutes", "4", "--output", str(out)]
    done = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert [one for one in report["tries"] if one["outcome"] != "survived"] == []
    assert report["counts"] == {name: {"survived": tries} for name, tries in PASSING.items()}
    assert f"| kill | {PASSING['kill']} | {PASSING['kill']} | 0 |" in done.stdout
