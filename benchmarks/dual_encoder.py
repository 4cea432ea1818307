"""Pairs/s, memory and start of a CLIP in our training loop, open_clip's own and a transformers Trainer.

    python benchmarks/dual_encoder.py                      # the three programs
    python benchmarks/dual_encoder.py --matches 10000      # ours with so many matches in a ledger, and without

Needs open_clip (`pip install -e ".[open_clip]"`). What the programs share, and what they do not, is said in
`clip_programs.py`. Before anything is measured, the three models must give the same loss of a batch to 1e-5.

They take turns in one process with one thread, each for some optimizer steps; the first step of a turn, which
allocates, is not counted, reading and augmenting pictures is. Ratios are of CPU time, because a machine may be busy
otherwise: above 1, ours is faster. Then each runs in a process of its own, which tells the peak of its memory, and when
its first step was over; for ours, the list of pairs is new to it. One JSON line a round, one for the median and range
of each ratio.
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
from typing import Any

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
    parser.add_argument("--alone", nargs=2, metavar=("PROGRAM", "FOLDER"), help="only run one, and tell its memory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[arguments.size]
    if arguments.alone:
        program, folder = arguments.alone
        _run_alone(program, Setting(Path(folder), size, arguments.batch, cache=Path(folder, "new")))
        return
    with tempfile.TemporaryDirectory() as folder, quiet():
        setting = Setting(Path(folder), size, arguments.batch)
        write_pictures(setting.folder, arguments.pictures, size.context)
        write_model(setting.folder / "model", size)
        facts = {"size": arguments.size, "batch": arguments.batch, "steps": arguments.steps}
        if arguments.matches:
            _compare_matches(setting, arguments.matches, arguments.rounds, arguments.steps, facts)
            return
        _require_equal_losses(setting)
        _compare_speed({name: (name, setting) for name in PROGRAMS}, OURS, arguments.rounds, arguments.steps, facts)
        _compare_alone(setting.folder, arguments, facts)


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


def _turn(program: str, setting: Setting, steps: int) -> tuple[float, float]:
    """CPU and wall seconds of some steps behind the first."""
    clock = Clock(steps + 1)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        PROGRAMS[program](setting, clock)
    return clock.cpu[-1] - clock.cpu[0], clock.wall[-1] - clock.wall[0]


def _compare_speed(
    sides: dict[str, tuple[str, Setting]], ours: str, rounds: int, steps: int, facts: dict[str, Any]
) -> None:
    """Let the sides take turns; the order is turned round each time."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(-1, rounds):  # the first turns warm up
        walls, count = {}, steps if number >= 0 else 1
        for side in list(sides)[:: 1 if number % 2 else -1]:
            cpu, walls[side] = _turn(*sides[side], count)
            if number >= 0:
                seconds[side].append(cpu)
        if number >= 0:
            pairs = steps * sides[ours][1].batch
            speeds = {side: round(pairs / seconds[side][-1], 2) for side in sides}
            wall = {side: round(pairs / walls[side], 2) for side in sides}
            print(json.dumps({"round": number, "pairs_per_cpu_second": speeds, "pairs_per_second": wall}), flush=True)
    ratios = {
        f"{side} / {ours}": [theirs / own for theirs, own in zip(seconds[side], seconds[ours], strict=True)]
        for side in sides
        if side != ours
    }
    figures = {name: _range(values) for name, values in ratios.items()}
    print(json.dumps({**facts, "cpu_seconds_ratio": figures}), flush=True)


def _range(values: list[float]) -> dict[str, float]:
    figures = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, 3) for name, value in figures.items()}


def _compare_matches(setting: Setting, matches: int, rounds: int, steps: int, facts: dict[str, Any]) -> None:
    """Ours with a ledger of random matches against ours without."""
    from truepair.data import open_pairs
    from truepair.relations import Ledger

    table = open_pairs(setting.folder / "pairs.csv", cache_dir=setting.folder / "cache")
    images = torch.from_numpy(table.image_ids.copy())
    captions = torch.tensor([ids[0] for ids in table.values("caption_ids")])
    cells = torch.randperm(len(table) ** 2, generator=torch.Generator().manual_seed(0))[:matches]
    with Ledger(setting.folder / "ledger") as ledger:
        rows, columns = cells // len(table), cells % len(table)
        ledger.record(images[rows], captions[columns], torch.full((matches,), 0.9), judge="mined:benchmark")
    mined = replace(setting, ledger=setting.folder / "ledger")
    sides = {"plain": (OURS, setting), f"{matches} matches": (OURS, mined)}
    _compare_speed(sides, "plain", rounds, steps, {**facts, "pictures": len(table)})


def _run_alone(program: str, setting: Setting) -> None:
    """Some steps of one program; prints when the first was over, and the peak of memory."""
    clock = Clock(SEEN)
    PROGRAMS[program](setting, clock)
    figures = {"first_step_at": clock.wall[0], "first_step_cpu_s": round(clock.cpu[0], 2)}
    print(json.dumps({**figures, "peak_mb": round(resident("VmHWM"))}))


def _compare_alone(folder: Path, arguments: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Each program in a process of its own: memory, and seconds from its start to the end of its first step."""
    found: dict[str, dict[str, float]] = {}
    for program in PROGRAMS:
        command = [sys.executable, __file__, "--size", arguments.size, "--batch", str(arguments.batch)]
        started = time.time()
        result = subprocess.run(
            [*command, "--alone", program, str(folder)], check=True, capture_output=True, text=True
        ).stdout
        figures: dict[str, float] = json.loads(result.splitlines()[-1])
        figures["first_step_s"] = round(figures.pop("first_step_at") - started, 2)
        found[program] = figures
    print(json.dumps({**facts, "alone": found}), flush=True)


if __name__ == "__main__":
    main()
