"""Pairs/s, memory and start of a CLIP in our training loop, open_clip's own and a transformers Trainer.

    python benchmarks/dual_encoder.py                      # the three programs
    python benchmarks/dual_encoder.py --matches 10000      # ours with so many matches in a ledger, and without

Needs open_clip (`pip install -e ".[open_clip]"`). What the programs share, and what they do not, is said in
`clip_programs.py`. Before anything is measured, the three models must give the same loss of a batch to 1e-5.

They take turns, each turn a process of its own with one thread, for some optimizer steps: in one process, each would
 find the heap as the others left it. Of a turn three things are told: pairs per second of CPU time behind the first
step, reading and augmenting of pictures included (of CPU time, because a machine may be busy otherwise); when the first
step was over, counted from the start of the process (for ours, the list of pairs is new to it); and the peak of memory.
One JSON line a turn, and one for the least, median and largest ratio of each to ours.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch
from clip_programs import PROGRAMS, SIZES, Clock, Setting, open_clip_model, quiet, write_model, write_pictures
from step_time import resident

OURS = "truepair"
SEEN = 4  # steps of a process that tells its memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small", help="of the model")
    parser.add_argument("--batch", type=int, default=32, help="pairs of a batch")
    parser.add_argument("--steps", type=int, default=10, help="counted steps of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program")
    parser.add_argument("--pictures", type=int, default=2000, help="pairs in all")
    parser.add_argument("--matches", type=int, default=0, help="compare ours with and without so many matches")
    parser.add_argument("--turn", nargs=3, metavar=("PROGRAM", "FOLDER", "CACHE"), help="only one turn of a program")
    parser.add_argument("--ledger", type=Path, help="of a turn")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[arguments.size]
    if arguments.turn:
        program, folder, cache = arguments.turn
        setting = Setting(Path(folder), size, arguments.batch, arguments.ledger, Path(cache))
        _turn(program, setting, arguments.steps)
        return
    with tempfile.TemporaryDirectory() as folder, quiet():
        setting = Setting(Path(folder), size, arguments.batch)
        write_pictures(setting.folder, arguments.pictures, size.context)
        write_model(setting.folder / "model", size)
        _require_equal_losses(setting)
        if arguments.matches:
            mined = _with_matches(setting, arguments.matches)
            _compare({"plain": (OURS, setting), f"{arguments.matches} matches": (OURS, mined)}, "plain", arguments)
        else:
            _compare({name: (name, setting) for name in PROGRAMS}, OURS, arguments)


def _require_equal_losses(setting: Setting) -> None:
    """The three must compute the same: our model, open_clip's with its loss, and `CLIPModel` with its own."""
    from open_clip.loss import ClipLoss

    from truepair.models.open import open_model
    from truepair.objectives import contrastive_loss

    opened, size = open_model(setting.folder / "model"), setting.size
    pixels = torch.randn(4, 3, size.pixels, size.pixels)
    captions = [line.split(",")[1] for line in (setting.folder / "pairs.csv").read_text().splitlines()[1:5]]
    ids, mask = opened.preprocessing.collator().encode(captions)
    with torch.inference_mode():
        ours, theirs = opened.model, open_clip_model(setting).eval()
        images, texts = ours.encode_images(pixels).features, ours.encode_texts(ids, mask).features
        losses = [
            contrastive_loss(images, texts, ours.temperature).loss,
            ClipLoss()(**theirs(pixels, ids)),
            ours.inner(input_ids=ids, pixel_values=pixels, attention_mask=mask, return_loss=True).loss,
        ]
    if ids.shape[1] != size.context or max(losses) - min(losses) > 1e-5:
        raise SystemExit(f"the programs do not compute the same: {losses}, captions of {ids.shape[1]} tokens")


def _turn(program: str, setting: Setting, steps: int) -> None:
    """Some steps of one program behind the first; prints what is told of them."""
    clock = Clock(steps + 1)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), quiet():
        PROGRAMS[program](setting, clock)
    speed = steps * setting.batch / (clock.cpu[-1] - clock.cpu[0])
    first = {"first_step_cpu_s": clock.cpu[0], "first_step_at": clock.wall[0]}
    print(json.dumps({"pairs_per_cpu_second": speed, **first, "peak_mb": resident("VmHWM")}))


def _figures_of(program: str, setting: Setting, arguments: argparse.Namespace) -> dict[str, float]:
    """What a turn in a fresh process tells."""
    with tempfile.TemporaryDirectory(dir=setting.folder) as new:
        command = [sys.executable, __file__, "--size", arguments.size, "--batch", str(arguments.batch)]
        command += ["--steps", str(arguments.steps), "--turn", program, str(setting.folder), new]
        command += [] if setting.ledger is None else ["--ledger", str(setting.ledger)]
        started = time.time()
        result = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(result)
    figures["first_step_s"] = figures.pop("first_step_at") - started
    return figures


def _compare(sides: dict[str, tuple[str, Setting]], ours: str, arguments: argparse.Namespace) -> None:
    """Let the sides take turns; the order is turned round each time."""
    told: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(arguments.rounds):
        for side in list(sides)[:: 1 if number % 2 else -1]:
            figures = _figures_of(*sides[side], arguments)
            told[side].append(figures)
            shown = {name: round(value, 2) for name, value in figures.items()}
            print(json.dumps({"round": number, "side": side, **shown}), flush=True)
    facts = {name: getattr(arguments, name) for name in ("size", "batch", "steps", "pictures")}
    for side in sides:
        if side != ours:
            ratios = {
                name: _range([theirs[name] / own[name] for theirs, own in zip(told[side], told[ours], strict=True)])
                for name in told[ours][0]
            }
            print(json.dumps({**facts, "ratio": f"{side} / {ours}", **ratios}), flush=True)


def _range(values: list[float]) -> dict[str, float]:
    figures = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, 3) for name, value in figures.items()}


def _with_matches(setting: Setting, matches: int) -> Setting:
    """The same with a ledger of random matches."""
    from truepair.data import open_pairs
    from truepair.relations import Ledger

    table = open_pairs(setting.folder / "pairs.csv", cache_dir=setting.folder / "cache")
    images = torch.from_numpy(table.image_ids.copy())
    captions = torch.tensor([ids[0] for ids in table.values("caption_ids")])
    cells = torch.randperm(len(table) ** 2, generator=torch.Generator().manual_seed(0))[:matches]
    with Ledger(setting.folder / "ledger") as ledger:
        rows, columns = cells // len(table), cells % len(table)
        ledger.record(images[rows], captions[columns], torch.full((matches,), 0.9), judge="mined:benchmark")
    return replace(setting, ledger=setting.folder / "ledger")


if __name__ == "__main__":
    main()
