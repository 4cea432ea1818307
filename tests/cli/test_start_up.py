"""What ``truepair train`` does before its first step, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

from tests.cli.test_commands import MODEL

UP_TO_THE_FIRST_STEP = """
import json, os, sys
from truepair.cli.main import main
from truepair.engine.loop.loop import TrainingLoop

def first_step(loop, group, epoch):
    print(json.dumps([name for name in ("matplotlib", "sklearn", "IPython") if name in sys.modules]), flush=True)
    os._exit(0)

TrainingLoop._take_step = first_step
main(sys.argv[1:])
"""


def test_what_only_pages_need_is_not_imported_before_the_first_step(squares: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    settings = {
        "data": {"sources": [str(squares / "pairs.jsonl")], "transform": {"size": 16, "rand_augment_ops": 0}},
        "text": {"vocab_size": 100, "max_length": 10},
        "model": {"options": MODEL},
        "loop": {"epochs": 1, "batch_size": 4, "workers": 0, "cpu": True},
    }
    recipe.write_text(json.dumps(settings))
    call = [sys.executable, "-c", UP_TO_THE_FIRST_STEP, "train", str(recipe), "--run-folder", str(tmp_path / "run")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
