"""A mined folder made by hand: pictures of squares, candidates with scores, and what people said."""

import csv
import itertools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from truepair.data.open import open_pairs
from truepair.data.splits import DataConfig
from truepair.mining.candidates import Candidates
from truepair.mining.gallery import Gallery
from truepair.mining.pictures import write_mining
from truepair.relations.ledger import Ledger
from truepair.relations.standing import Certificate, Standing

JUDGE = "reviewed:0123456789ab"
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
CERTIFICATE = Certificate(
    precision=0.9, confidence=0.95, threshold=0.8, pairs=9, asked=9, matched=9, lower=0.7, judge=JUDGE
)


def write_pairs(folder: Path, each: int = 4) -> Path:
    """Squares of three colours as a CSV, each with a caption of its own, which is true of all of its colour."""
    with (folder / "pairs.csv").open("w", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(["image", "caption"])
        for colour, number in itertools.product(COLOURS, range(each)):
            picture = Image.new("RGB", (16, 16), "black")
            picture.paste(tuple(value - 9 * number for value in COLOURS[colour]), (2, 2, 6 + number, 12))
            picture.save(folder / f"{colour}-{number}.png")
            table.writerow([f"{colour}-{number}.png", f"{colour} square number {number}"])
    return folder / "pairs.csv"


def mined(pairs: Path, folder: Path, *, certificate: Certificate | None = CERTIFICATE) -> tuple[Path, Candidates]:
    """Every undeclared cell with a score: 0.9 within a colour, 0.3 or 0.05 across; and three answers of a person."""
    table = open_pairs(pairs)
    gallery = Gallery.of_table(table)
    shape = (len(gallery), len(gallery.texts))
    pictures, captions = (part.ravel() for part in np.indices(shape))
    undeclared = ~gallery.is_declared(pictures, captions)
    pictures, captions = pictures[undeclared], captions[undeclared]
    of_picture = [gallery.texts[gallery.captions[number][0]].split()[0] for number in range(len(gallery))]
    same = np.array([of_picture[p] == gallery.texts[c].split()[0] for p, c in zip(pictures, captions, strict=True)])
    far = np.where((pictures + captions) % 3 == 0, 0.3, 0.05 - 0.001 * captions)
    scores = np.where(same, 0.9, far).astype(np.float32)
    prior = np.log(scores / (1 - scores)).astype(np.float32)
    made = Candidates.of_gallery(gallery, pictures, captions, prior[:, None], ["captions/cosine"], prior)
    made.save(folder)
    write_mining(folder, DataConfig(sources=[str(pairs)]), {"rows": len(table), "left_out": []})
    made = Candidates.load(folder)
    with Ledger(folder / "ledger") as ledger:
        made.record(ledger, 1 / (1 + np.exp(-made.prior)), judge=JUDGE)
        for place, word in ((0, 0.0), (1, 1.0), (len(made) - 1, 1.0)):
            made.record(ledger, np.array([word], np.float32), judge="person:anna", which=np.array([place]))
    Standing(judge=JUDGE, answers=3, certificate=certificate).save(folder / "ledger")
    return folder, made


def verdict(ledger: Path, image: int, caption: int, probability: float, judge: str) -> None:
    """Write one more verdict, by ids."""
    with Ledger(ledger) as opened:
        opened.record(torch.tensor([image]), torch.tensor([caption]), torch.tensor([probability]), judge=judge)
