"""What ``truepair train`` does before its first step, in a process of its own; and what importing asks of Python."""

import gc
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.cli.test_commands import MODEL
from truepair.cli.importing import importing

UP_TO_THE_FIRST_STEP = """
import gc, json, os, sys
from truepair.cli.main import main
from truepair.cli.run_folder import Opening

collections, recorded = [], Opening.recorded

def imported(opened):
    from truepair.engine.loop.loop import TrainingLoop
    figures = {"collections": len(collections), "frozen": gc.get_freeze_count(), "collector": gc.isenabled()}

    def first_step(loop, group, epoch):
        figures["modules"] = [name for name in ("matplotlib", "sklearn", "IPython") if name in sys.modules]
        print(json.dumps(figures), flush=True)
        os._exit(0)

    TrainingLoop._take_step = first_step
    return recorded(opened)

def collected(phase, figures):
    if phase == "stop" and figures["generation"] == 2:
        collections.append(figures)

gc.callbacks.append(collected)
Opening.recorded = imported
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def before_the_first_step(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("start")
    settings = {
        "data": {"sources": [str(squares / "pairs.jsonl")], "transform": {"size": 16, "rand_augment_ops": 0}},
        "text": {"vocab_size": 100, "max_length": 10},
        "model": {"options": MODEL},
        "loop": {"epochs": 1, "batch_size": 4, "workers": 0, "cpu": True},
    }
    recipe = folder / "own.yaml"
    recipe.write_text(json.dumps(settings))
    call = [sys.executable, "-c", UP_TO_THE_FIRST_STEP, "train", str(recipe), "--run-folder", str(folder / "run")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return figures


def test_what_only_pages_need_is_not_imported_before_the_first_step(before_the_first_step: dict[str, object]) -> None:
    assert before_the_first_step["modules"] == []


def test_the_collector_does_not_go_through_libraries_while_they_are_imported(
    before_the_first_step: dict[str, int],
) -> None:
    """Nor later, as it leaves them alone; what the command itself does is collected as ever. There were seven."""
    assert before_the_first_step["collections"] < 4
    assert before_the_first_step["frozen"] > 300_000
    assert before_the_first_step["collector"] is True


def test_the_collector_works_again_after_importing_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[int] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))

    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert not frozen  # nothing was imported: what a run holds is collected one day
    with pytest.raises(ImportError, match="no such thing"), importing():
        raise ImportError("no such thing")
    assert gc.isenabled()
    with importing():
        monkeypatch.setitem(sys.modules, "made_up_for_this", ModuleType("made_up_for_this"))
    assert frozen == [1]


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
