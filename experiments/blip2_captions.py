"""Captions from every first stage that experiments/blip2.yaml trained: what are GRIT, ECM, S-ITC and mined pairs worth?

    truepair study experiments/blip2.yaml
    python experiments/blip2_captions.py runs/blip2 --seeds 0

Each model is fine-tuned by the recipe ``captioning/blip2_sample``: a small GPT-2 of random weights, trained along, on
3,000 of the bundled drawings, among them those that the first stage was trained or tested on; 300 other drawings are
captioned. Runs that are there, in ``captions`` of the study's folder, are not repeated; one that was stopped goes on.
Writes ``captions.md`` there and prints it: mean and spread (standard deviation) of figures x 100 of each arm, the
differences from the first one run by run, and the two who do not look.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from truepair.cli.main import main
from truepair.tasks.study.cells import slug

FIGURES = {"cider_d": "CIDEr-D", "bleu_1": "BLEU-1", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L"}

Scores = dict[str, dict[str, float]]
"""Figures by who wrote the captions."""


def captions_of(model: Path, folder: Path, seed: int, options: Sequence[str]) -> Scores:
    """Figures of the captions that a first stage leads to, or those that an earlier call left."""
    if not (folder / "captioning.json").is_file():
        where = ["--model.checkpoint", str(model), "--run-folder", str(folder)]
        main(["train", "captioning", "blip2_sample", *where, "--loop.seed", str(seed), *options])
    scores = json.loads((folder / "captioning.json").read_text(encoding="utf-8"))["scores"]
    return {who: one["figures"] for who, one in scores.items()}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, times 100."""
    deviation = f" (± {100 * statistics.stdev(values):.1f})" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def table(found: dict[str, list[Scores]]) -> str:
    """The figures of all arms, by arm in the order of its runs, as a table in Markdown."""
    first = next(iter(found.values()))
    lines = [
        f"| first stage | runs | {' | '.join(FIGURES.values())} | CIDEr-D, gain run by run |",
        f"|{' --- |' * (len(FIGURES) + 3)}",
    ]
    for arm, runs in found.items():
        figures = [spread([run["model"][name] for run in runs]) for name in FIGURES]
        gains = [run["model"]["cider_d"] - other["model"]["cider_d"] for run, other in zip(runs, first, strict=False)]
        gain = "" if runs is first else spread(gains)
        lines.append(f"| {arm} | {len(runs)} | {' | '.join(figures)} | {gain} |")
    for who in ("nearest picture", "most frequent"):
        runs = [run for arm in found.values() for run in arm]
        figures = [spread([run[who][name] for run in runs]) for name in FIGURES]
        lines.append(f"| none: {who} | {len(runs)} | {' | '.join(figures)} | |")
    return "\n".join(lines)


def compare() -> None:
    """Run all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of the study, which kept its models (loop.save)")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds of the first stages; all without it")
    arguments, options = parser.parse_known_args()
    rows = pq.read_table(arguments.study / "results.parquet").to_pylist()
    cells = {(row["arm"], row["data"], row["data_seed"], row["seed"]): None for row in rows}
    found: dict[str, list[Scores]] = {}
    for arm, data, draw, seed in sorted(cells, key=lambda cell: (cell[3], cell[2])):  # some of each arm first
        if arguments.seeds is None or seed in arguments.seeds:
            place = Path(slug(data), str(draw), slug(arm), str(seed))
            model, folder = arguments.study / "cells" / place / "model", arguments.study / "captions" / place
            found.setdefault(arm, []).append(captions_of(model, folder, seed, options))
            (arguments.study / "captions.md").write_text(table(found) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    compare()
