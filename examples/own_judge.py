"""A judge of one's own, asked about likely candidates; its verdicts go to a ledger that training reads.

    python examples/own_judge.py pairs.csv openai/clip-vit-base-patch32 verdicts 16    # 16 captions a picture
    truepair train clip pairs.csv --relations.rules '[{detector: recorded, ledger: verdicts, action: relabel}]'

This judge compares the colours that a caption names with those of the picture, which is enough for coloured squares.
Put a question to a VLM, an API or a rule of your own in its place: all it must do is return probabilities.
"""

import re
import sys

import numpy as np
import torch

from truepair.data import PairTable, open_pairs
from truepair.relations import Ledger
from truepair.relations.text import caption_key
from truepair.tasks.retriever import Retriever

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


class ColourJudge:
    """Says how likely a caption is true of a picture, by the colours that it names.

    Args:
        table: the pairs; a picture is read once.
    """

    name = "colours"

    def __init__(self, table: PairTable) -> None:
        self.table = table
        self.seen: dict[int, str] = {}

    def probability(self, row: int, caption: str) -> float:
        """Of the picture of a row and a caption."""
        if row not in self.seen:
            pixels = np.asarray(self.table.image(row), dtype=np.float32).reshape(-1, 3)  # [H W, 3]
            bright = pixels[pixels.max(axis=1) > 64].mean(axis=0)
            angles = {name: bright @ rgb / np.linalg.norm(rgb) for name, rgb in COLOURS.items()}
            self.seen[row] = max(angles, key=lambda name: angles[name])
        named = set(re.findall(r"\w+", caption.lower())) & set(COLOURS)
        return 0.3 if not named else 0.95 * (self.seen[row] in named)


def candidates(model: Retriever, table: PairTable, count: int) -> list[tuple[int, int]]:
    """The undeclared pairs (picture row, caption row) that a dual encoder finds most alike, so many a picture."""
    images = torch.from_numpy(model.encode_images(table.values("image")))  # [N, E]
    captions = [captions[0] for captions in table.values("captions")]
    texts = torch.from_numpy(model.encode_texts(captions))  # [N, E]
    nearest = (images @ texts.T).topk(min(count, len(captions)), dim=1).indices  # [N, count]
    ids, keys = table.image_ids, [caption_key(caption) for caption in captions]
    declared = set(zip(ids.tolist(), keys, strict=True))
    pairs = ((row, column) for row, columns in enumerate(nearest.tolist()) for column in columns)
    return [(row, column) for row, column in pairs if (int(ids[row]), keys[column]) not in declared]


def main() -> None:
    """Ask about the candidates of the training split, and write down what the judge says."""
    source, model, folder, *most = sys.argv[1:]
    table = open_pairs(source).split("train").as_pairs()
    judge = ColourJudge(table)
    asked = candidates(Retriever.load(model), table, int(most[0]) if most else 16)
    captions, caption_ids = table.values("captions"), table.values("caption_ids")
    said = torch.tensor([judge.probability(row, captions[column][0]) for row, column in asked])
    images = torch.tensor([int(table.image_ids[row]) for row, _ in asked])
    texts = torch.tensor([caption_ids[column][0] for _, column in asked])
    with Ledger(folder) as ledger:
        ledger.record(images, texts, said, judge=judge.name, time=np.datetime64("now"), once=True)
    print(f"{len(asked)} candidates, {int((said >= 0.5).sum())} of them matches: {folder}")


if __name__ == "__main__":
    main()
