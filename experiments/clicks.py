"""What answers of a person are worth: a judge of mined pairs after so many of them, on judgements of photographs.

    python experiments/clicks.py --data DIR/dataset_flickr8k.json --judgements DIR/human_judgements.jsonl --draws 5 \
        --answers 0 50 100 200 400 800 --orders random rank active --json clicks.json

Judged pairs of a photo and a caption of another one are replayed: a draw asks some of them, in an order, and fits the
judge of ``truepair review`` on what people said; it is tested on pairs of other photos. Pairs judged as nearly matching
are left out. With ``--test-judgements FILE`` pairs of the first file are asked and those of the second tested; without,
60 % of the judged photos are asked about, other ones in each draw. All photos of the data are the gallery.

``--captions all``: all captions of a photo are known. ``--captions one``: its first caption alone is; and of the
caption that is asked about, the photo that it was written for.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from truepair.cli.run_folder import quiet_libraries
from truepair.data.judgements import Judgement, read_judgements
from truepair.data.open import open_pairs
from truepair.data.table import PairTable
from truepair.errors import DataError, TruepairError
from truepair.evaluation.detectors import detector_metrics
from truepair.files import write_json, write_text
from truepair.judges.answered import Standardised, fit_answered
from truepair.mining.asking import by_rank_draw, next_round
from truepair.mining.gallery import Gallery, Integers, Lists
from truepair.mining.prior import PRIOR
from truepair.mining.signals.encoded import Encoded
from truepair.mining.signals.families import compute_signals, usual_families
from truepair.tasks.encoding import EncodingConfig, encode_gallery

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

ORDERS = ("random", "rank", "active")

ASKED = 0.6  # of the judged photos, where there is no second file

ROUND = 10  # answers between two fits, as in the browser

NAMES = {"all": "several captions a photo", "one": "one caption a photo"}


@dataclass(frozen=True)
class Cells:
    """Judged pairs of a photo and a caption of another one.

    Attributes:
        photos: number of each pair's photo in the gallery [P].
        matches: what people said [P].
        names: of the signals [S].
        signals: standardised, of all pairs.
        prior: log-odds before anyone has answered [P].
        tested: which pairs are kept for the test [P]; None to draw them by photo.
    """

    photos: Integers
    matches: Flags
    names: tuple[str, ...]
    signals: Standardised
    prior: Floats
    tested: Flags | None

    def asked(self, draw: int) -> Flags:
        """Which pairs a draw may ask about [P]."""
        if self.tested is not None:
            return ~self.tested
        photos = np.unique(self.photos)
        chosen = np.random.default_rng(draw).permutation(photos)[: round(ASKED * len(photos))]
        return np.isin(self.photos, chosen)


def encode(data: str, captions: str, judged: Sequence[Judgement], model: str | None) -> tuple[Encoded, Encoded]:
    """All photos of the data.

    Returns:
        The gallery, and what is known of it: the same, or all but one caption of each photo forgotten.
    """
    table = open_pairs(data)
    config = EncodingConfig(model=model)
    if captions == "all":
        encoded = encode_gallery(table, config, print)
        return encoded, encoded
    encoded = encode_gallery(first_and(table, {item.caption_id for item in judged}), config, print)
    gallery = encoded.gallery
    first = Lists(np.arange(len(gallery) + 1), gallery.captions.values[gallery.captions.starts[:-1]])
    return encoded, replace(encoded, gallery=replace(gallery, captions=first))


def first_and(table: PairTable, judged: set[int]) -> PairTable:
    """The first caption of each photo, and behind it those that people judged."""

    def few(row: dict[str, Any]) -> dict[str, Any]:
        kept = [place for place, number in enumerate(row["caption_ids"]) if place == 0 or number in judged]
        return {name: [row[name][place] for place in kept] for name in ("captions", "caption_ids")}

    return PairTable(table.rows.map(few), f"{table.name}, first captions")


def crossed(gallery: Gallery, judged: Sequence[Judgement]) -> tuple[Integers, Integers, Flags]:
    """Photos, captions and matches of judged pairs, without own and nearly matching ones [P] each."""
    pictures = dict(zip(gallery.image_ids.values.tolist(), gallery.image_ids.owners.tolist(), strict=True))
    captions = dict(zip(gallery.caption_ids.values.tolist(), gallery.caption_ids.owners.tolist(), strict=True))
    found = [
        (pictures[item.image_id], captions[item.caption_id], item.label == "match")
        for item in judged
        if item.image_id in pictures and item.caption_id in captions and item.label != "near"
    ]
    if not found:
        raise DataError("no judged pair is of the photos in --data; give the judgements of these photos")
    photo, caption, match = np.array(found, np.int64).T
    kept = ~gallery.is_declared(photo, caption)
    return photo[kept], caption[kept], match[kept].astype(bool)


def read_cells(options: argparse.Namespace, captions: str) -> Cells:
    """Judged pairs with their signals."""
    files = [read_judgements(file) for file in (options.judgements, options.test_judgements) if file]
    encoded, known = encode(options.data, captions, [item for items in files for item in items], options.model)
    parts = [crossed(encoded.gallery, items) for items in files]
    photos, numbers, matches = (np.concatenate(column) for column in zip(*parts, strict=True))
    families, lacking = usual_families(known)
    for line in lacking:
        print(line)
    signals, names = compute_signals(photos, numbers, families)
    tested = np.arange(len(photos)) >= len(parts[0][0]) if options.test_judgements else None
    if tested is not None and np.isin(photos[tested], photos[~tested]).any():
        raise DataError("some photos are in both files of judgements; give files about different photos")
    print(
        f"{NAMES[captions]}: {len(photos):,} judged pairs of {len(np.unique(photos)):,} photos, {matches.sum():,} match"
    )
    return Cells(photos, matches, names, Standardised.of(signals), PRIOR.log_odds(signals, names), tested)


def replay(cells: Cells, order: str, answers: Sequence[int], draw: int) -> Iterator[tuple[int, float]]:
    """Average precision on the tested photos after so many answers each."""
    free = cells.asked(draw)
    tested = ~free
    which: list[int] = []
    log_odds = cells.prior
    drawn: list[int] = []
    if order == "random":
        drawn = np.random.default_rng(draw).permutation(np.flatnonzero(free)).tolist()
    elif order == "rank":
        drawn = by_rank_draw(cells.prior, free, max(answers), draw).tolist()
    for wanted in sorted(answers):
        while len(which) < wanted:
            size = min(ROUND, wanted - len(which))
            if order == "active":
                asked = [number for number, _ in next_round(log_odds, free, len(which), draw, size=size)]
                free[asked] = False
            else:
                asked = drawn[len(which) : wanted]
            if not asked:
                raise DataError(f"{wanted} answers are wanted, and {len(which)} pairs are there to ask; ask for fewer")
            which += asked
            if order == "active" or len(which) == wanted:
                log_odds = judged_by(cells, which)
        value = detector_metrics(torch.from_numpy(log_odds[tested]), torch.from_numpy(cells.matches[tested]))
        yield wanted, value.average_precision


def judged_by(cells: Cells, which: Sequence[int]) -> Floats:
    """Log-odds of all pairs by the judge that was told of some."""
    asked = np.array(which, np.int64)
    shares = cells.matches[asked].astype(np.float64)
    fit = fit_answered(cells.names, cells.signals, cells.prior, asked, shares, cells.photos[asked])
    return fit.judge.log_odds_of(cells.signals.values, cells.prior)


def rows_of(cells: Cells, captions: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of all orders, printed as they are there."""
    rows = []
    for order in options.orders:
        found: dict[int, list[float]] = {wanted: [] for wanted in sorted(options.answers)}
        for draw in range(options.draws):
            for wanted, value in replay(cells, order, options.answers, draw):
                found[wanted].append(value)
        for wanted, values in found.items():
            rows.append(
                {
                    "answers": wanted,
                    "order": order,
                    "captions": captions,
                    "average_precision": mean(values),
                    "deviation": stdev(values) if len(values) > 1 else 0.0,
                }
            )
            print(
                f"{captions:>4} {order:>7} {wanted:>5}: {mean(values):.3f} +- {rows[-1]['deviation']:.3f}", flush=True
            )
    return rows


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table in Markdown, a line for each order."""
    answers = sorted({row["answers"] for row in rows})
    lines = ["| captions | asked | " + " | ".join(map(str, answers)) + " |", "| --- " * (len(answers) + 2) + "|"]
    for captions, order in dict.fromkeys((row["captions"], row["order"]) for row in rows):
        of = {row["answers"]: row for row in rows if (row["captions"], row["order"]) == (captions, order)}
        cells = [f"{of[a]['average_precision']:.3f} ± {of[a]['deviation']:.3f}" for a in answers]
        lines.append(f"| {NAMES[captions]} | {order} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw_plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Average precision by answers."""
    shown = list(dict.fromkeys(row["captions"] for row in rows))
    answers = sorted({row["answers"] for row in rows})
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "clicks"}):
        figure = Figure(figsize=(4.5 * len(shown), 3.6), layout="constrained")
        for axes, captions in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            for order in dict.fromkeys(row["order"] for row in rows):
                line = [row for row in rows if (row["captions"], row["order"]) == (captions, order)]
                places = [answers.index(row["answers"]) for row in line]
                values = [row["average_precision"] for row in line]
                axes.errorbar(places, values, [row["deviation"] for row in line], label=order, capsize=3, marker="o")
            axes.set(title=NAMES[captions], xlabel="answers", ylabel="average precision")
            axes.set_xticks(range(len(answers)), [str(number) for number in answers])
            axes.legend()
        figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Measure; print rows; write what was asked for."""
    options = arguments()
    quiet_libraries()
    rows = [row for captions in options.captions for row in rows_of(read_cells(options, captions), captions, options)]
    if options.json:
        write_json(Path(options.json), {"rows": rows})
    if options.output:
        folder = Path(options.output)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "photos.json", {"rows": rows})
        write_text(folder / "photos.md", table_of(rows))
        draw_plot(rows, folder / "photos.svg")


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="photos with several captions")
    parser.add_argument("--judgements", required=True, help="JSON Lines of judged pairs")
    parser.add_argument("--test-judgements", help="ask about the first file, test on this one")
    parser.add_argument("--answers", type=int, nargs="+", default=[0, 50, 100, 200, 400, 800], help="how many")
    parser.add_argument("--draws", type=int, default=5, help="how often each is drawn")
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS), help="how pairs are asked")
    parser.add_argument("--captions", nargs="+", choices=list(NAMES), default=list(NAMES), help="how many are known")
    parser.add_argument("--model", help="a dual encoder, by folder or name, in place of ridge regression")
    parser.add_argument("--json", help="where the rows go")
    parser.add_argument("--output", help="folder for rows, table and plot")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except TruepairError as error:
        sys.exit(f"error: {error}")
