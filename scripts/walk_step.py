"""Which files a training step enters, and how often it goes from one file to another.

    python scripts/walk_step.py

Runs two steps of GRIT + ITC + ITM + MLM of a tiny model on made-up pairs and follows the second one. Prints two tables,
each with the files of the package in order of their first call, and their calls:

  step    from the step's `forward` to the end of its `after_update`, the room `models` left out
  batch   from the request for the samples of the batch to the end of the optimizer's step, all rooms

A change of file is a function entered in another file than the function entered before it. What is followed is known by
the names of its methods alone, so that the script reads any step that the loop can train.
"""

import json
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

import truepair
from truepair.cli.main import main as truepair_command

PACKAGE = Path(truepair.__file__).parent
STEPS, BATCH, SIDE = 2, 8, 16


class Walk:
    """A profile function that notes the file of each function of the package that is entered."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.marks: dict[str, int] = {}  # places in `entered`: of the last batch read, step begun, ...
        self._files: dict[CodeType, str | None] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Note an event; `sys.setprofile` calls this."""
        code = frame.f_code
        if code not in self._files:
            path = Path(code.co_filename)
            inside = path.is_relative_to(PACKAGE) and not code.co_name.startswith("<")  # no comprehensions
            self._files[code] = path.relative_to(PACKAGE).as_posix() if inside else None
        file = self._files[code]
        if file is None or event not in ("call", "return"):
            return
        if event == "return" and code.co_name == "after_update":
            self.mark("after_update")
        if event == "call":
            if code.co_name == "__getitems__":
                self.mark("batch")
            elif code.co_name == "forward" and hasattr(frame.f_locals.get("self"), "after_update"):
                self.mark("step")
            self.entered.append(file)

    def mark(self, name: str) -> None:
        """Note how far the walk is."""
        self.marks[name] = len(self.entered)

    def between(self, first: str, last: str) -> list[str]:
        """The files entered from one mark to another, call by call."""
        return self.entered[self.marks[first] : self.marks[last]]


def write_recipe(folder: Path) -> Path:
    """Made-up pairs, one for each pair of two steps, and the recipe of the run."""
    lines = []
    for number in range(STEPS * BATCH):
        Image.new("RGB", (SIDE, SIDE), (15 * number, 90, 90)).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "caption": f"a square of the shade number {number}"}))
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    encoder = {"model_type": "conv_stem", "image_size": SIDE, "hidden_size": 32, "num_hidden_layers": 1}
    options = {"image_encoder": encoder, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    options |= {"text_layers": 1, "fusion_layers": 1, "embed_dim": 16}
    data = {"sources": [str(folder / "pairs.jsonl")], "validation_split": "", "test_split": ""}
    recipe = {
        "data": {**data, "transform": {"size": SIDE, "rand_augment_ops": 0}},
        "text": {"vocab_size": 100, "max_length": 12},
        "model": {"options": options},
        "sampler": {"kind": "grit", "search_space": BATCH, "queue_size": 2 * BATCH},
        "objectives": {"itm": {"weight": 1.0}, "mlm": {"weight": 1.0}},
        "loop": {"epochs": 1, "batch_size": BATCH, "workers": 0, "log_every": STEPS + 1, "cpu": True},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def print_table(title: str, entered: list[str]) -> None:
    """Print the files in order of their first call."""
    calls = Counter(entered)
    changes = sum(file != before for before, file in pairwise(entered))
    print(f"{title}: {len(calls)} files, {changes} changes of file, {len(entered)} calls")
    for file, count in calls.items():
        print(f"  {count:5d}  {file}")


def main() -> None:
    """Run, follow, print."""
    walk = Walk()
    register_optimizer_step_post_hook(lambda *_: walk.mark("optimizer"))
    with tempfile.TemporaryDirectory() as folder:
        recipe = write_recipe(Path(folder))
        sys.setprofile(walk)
        try:
            truepair_command(["pretrain", str(recipe), "--run-folder", str(Path(folder) / "run")])
        finally:
            sys.setprofile(None)
    step = [file for file in walk.between("step", "after_update") if not file.startswith("models/")]
    print_table("step", step)
    print_table("batch", walk.between("batch", "optimizer"))


if __name__ == "__main__":
    main()
