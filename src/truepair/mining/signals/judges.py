"""Judges as signals: an ITM head, a dual encoder or a vision-language model, asked about the strongest candidates."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from truepair.checked import checksum, one_maker, read_checked_json, tell, write_checked_json
from truepair.data.pairs import PairBatch
from truepair.data.table import PairTable
from truepair.errors import ConfigError, DataError, nearest
from truepair.files import discard, one_line_errors
from truepair.judges.base import PROMPT, Judge, JudgeConfig, JudgeInputs, ledger_name
from truepair.judges.calibration import DualCalibration
from truepair.judges.dual import DualFeatures, DualJudge
from truepair.judges.open import JUDGES
from truepair.mining.candidates import Candidates
from truepair.mining.gallery import Integers
from truepair.models.open import open_model
from truepair.randomness import stable_hash
from truepair.relations.ledger import Ledger, read_verdicts
from truepair.relations.text import caption_key

Floats = NDArray[np.float32]

ASKED = {"albef": "itm", "blip": "itm", "blip2": "itm", "dual": "dual", "vlm": "vlm"}
"""The family of signals that each kind of judge gives; the other kinds read no picture and caption."""

_CELLS = 256  # asked at once, ordered by picture
_SECONDS = 20.0  # between two times that verdicts are brought to disk
_FURTHEST = 15.0  # log-odds; a probability of 0 or 1 in float32 has none

_SUMS = "checksums.json"
_ADVICE = "repair its permissions, or choose another folder (cache_folder)"

Show = Callable[[int, int], None]


def asked_judge(word: str, prompt: str = PROMPT) -> JudgeConfig:
    """The judge that a word KIND:NAME names, such as "vlm:HuggingFaceTB/SmolVLM-256M-Instruct".

    Args:
        word: kind, and folder or name.
        prompt: of a vlm.

    Raises:
        ConfigError: it names none, or the prompt has no place for a caption.
    """
    kind, colon, name = word.partition(":")
    if kind not in ASKED:
        near = nearest(kind, ASKED)
        raise ConfigError(f"no judge '{kind}' can be asked{near}; give KIND:NAME, with a KIND of {', '.join(ASKED)}")
    if not colon or not name:
        raise ConfigError(f"the judge to ask is '{word}'; give {kind}:NAME, a folder or a name on the hub")
    return JudgeConfig(kind=kind, checkpoint=name, prompt=prompt)


def signal_name(config: JudgeConfig) -> str:
    """Name of a judge's signal, "family/kind checkpoint"."""
    return f"{ASKED[config.kind]}/{config.kind} {config.checkpoint}"


def open_asked(config: JudgeConfig, table: PairTable, device: torch.device | str) -> Judge:
    """Open a judge of a table's pictures; a dual encoder needs no calibration, for its cosine is the signal.

    Raises:
        CheckpointError: there is no such checkpoint, or it is of another kind.
    """
    if config.kind == "dual":
        encoder = DualFeatures(open_model(config.checkpoint), table, device)
        as_it_is = DualCalibration(1.0, 0.0, 0.5, encoder.fingerprint, 0, 0)
        return DualJudge(encoder, as_it_is, name=f"dual {config.checkpoint}", device=device)
    return JUDGES[config.kind](config, JudgeInputs(table=table), device)


def with_judge(
    candidates: Candidates,
    config: JudgeConfig,
    judge: Judge,
    table: PairTable,
    most: int,
    folder: Path,
    show: Show,
    *,
    check: str = "times",
) -> tuple[Candidates, int]:
    """Candidates with one signal more: the log-odds that a judge gives the strongest of them, NaN for the others.

    What it says is kept on disk by its fingerprint, and brought there again and again while it is asked: another call,
    and one after an interruption, asks only about what is new. Of several processes that ask one judge, one does at a
    time.

    Args:
        candidates: the strongest first.
        config: names the judge.
        judge: opened on that table.
        table: that the candidates were mined from.
        most: how many of them it is asked about.
        folder: where verdicts are kept.
        show: called with (done, all).
        check: by what a picture that has changed is told, one of ``truepair.checked.CHECKS``.

    Raises:
        DataError: the folder cannot be written.

    Returns:
        The candidates, and how many of the cells it had to be asked about.
    """
    count = min(most, len(candidates))
    keys = _keys(candidates, count, table, check)
    kept = folder / f"verdicts-{judge.fingerprint}"
    with one_maker(kept, _ADVICE):
        known = _known(kept)
        probabilities = np.array([known.get(key, np.nan) for key in keys], np.float32)
        new = np.flatnonzero(np.isnan(probabilities))
        new = new[np.argsort(candidates.pictures[new], kind="stable")]  # all of a picture together
        for cells, said in _answers(candidates, judge, new, keys, kept, show):
            probabilities[cells] = said
    column = np.full((len(candidates), 1), np.nan, np.float32)
    with np.errstate(divide="ignore"):
        odds = np.log(probabilities.astype(np.float64)) - np.log1p(-probabilities.astype(np.float64))
    column[:count, 0] = odds.clip(-_FURTHEST, _FURTHEST)
    signals = np.concatenate([candidates.signals, column], axis=1)
    return replace(candidates, signals=signals, names=(*candidates.names, signal_name(config))), len(new)


def _answers(
    candidates: Candidates, judge: Judge, new: Integers, keys: Sequence[tuple[int, int]], folder: Path, show: Show
) -> Iterator[tuple[Integers, Floats]]:
    """Some cells after the other, and what a judge says of them; it is kept in a folder, whose files are checked."""
    written = time.monotonic()
    with one_line_errors(folder, DataError, _ADVICE):
        ledger = Ledger(folder)
    try:
        for first in range(0, len(new), _CELLS):
            show(first, len(new))
            part = new[first : first + _CELLS]
            said = _score(judge, candidates, part)
            pictures, captions = torch.tensor([keys[cell] for cell in part.tolist()]).T
            ledger.record(pictures, captions, torch.from_numpy(said), judge=ledger_name(judge))
            yield part, said
            if time.monotonic() - written > _SECONDS:
                _keep(ledger)
                written = time.monotonic()
    finally:
        _keep(ledger)
    show(len(new), len(new))


def _keep(ledger: Ledger) -> None:
    """Bring verdicts to disk, and the checksums of all files of them."""
    ledger.flush()
    with one_line_errors(ledger.folder, DataError, _ADVICE):
        parts = sorted(ledger.folder.glob("*.parquet"))
        write_checked_json(ledger.folder / _SUMS, {part.name: checksum(part) for part in parts})


def _score(judge: Judge, candidates: Candidates, cells: Integers) -> Floats:
    """What a judge says of some cells [C]."""
    pictures, image = np.unique(candidates.pictures[cells], return_inverse=True)
    captions, text = np.unique(candidates.captions[cells], return_inverse=True)
    batch = _batch(candidates, pictures, [candidates.texts[caption] for caption in captions.tolist()])
    said: Floats = judge.score(batch, torch.from_numpy(image), torch.from_numpy(text)).float().cpu().numpy()
    return said


def _batch(candidates: Candidates, pictures: Integers, texts: Sequence[str]) -> PairBatch:
    """A batch whose images are some pictures and whose captions are some texts; rows without one repeat the first."""
    size = max(len(pictures), len(texts))
    rows = torch.full((size,), int(candidates.rows[pictures[0]]))
    rows[: len(pictures)] = torch.from_numpy(candidates.rows[pictures])
    captions = [*texts, *[texts[0]] * (size - len(texts))]
    nothing = torch.zeros(size, 0, dtype=torch.int64)  # judges of plain pairs tokenize captions themselves
    return PairBatch(
        pixel_values=None,
        input_ids=nothing,
        attention_mask=nothing,
        index=rows,
        source_index=rows,
        image_id=rows,
        caption_id=torch.arange(size),
        caption_key=torch.tensor([caption_key(text) for text in captions]),
        captions=captions,
        reasons=[""] * size,
    )


def _keys(candidates: Candidates, count: int, table: PairTable, check: str) -> list[tuple[int, int]]:
    """A key of the picture and of the caption of each of the first cells: another picture has another, be its id equal.

    A caption counts as it is written: a judge reads cases and punctuation.
    """
    pictures, captions = candidates.pictures[:count], candidates.captions[:count].tolist()
    asked = np.unique(pictures)
    stamps = table.picture_stamps(candidates.rows[asked], check).tolist()
    shown = {
        picture: stable_hash("asked picture", int(candidates.image_ids[picture][0]), stamp)
        for picture, stamp in zip(asked.tolist(), stamps, strict=True)
    }
    said = {caption: stable_hash("asked caption", candidates.texts[caption]) for caption in set(captions)}
    return [(shown[picture], said[caption]) for picture, caption in zip(pictures.tolist(), captions, strict=True)]


def _known(folder: Path) -> dict[tuple[int, int], float]:
    """Verdicts that are on disk, by the keys of picture and caption; files that are damaged are removed."""
    if not folder.is_dir():
        discard(folder)
        return {}
    try:
        sums = read_checked_json(folder / _SUMS)
    except FileNotFoundError:
        sums = {}
    except (OSError, ValueError) as error:
        tell(f"{folder / _SUMS} is damaged ({error}): the verdicts in its folder are asked for again")
        sums = {}
    for part in sorted(folder.glob("*.parquet")):
        if not _is_whole(part, sums.get(part.name)):
            tell(f"{part} is damaged: its verdicts are asked for again")
            discard(part)
    if not any(folder.glob("*.parquet")):
        return {}
    table = read_verdicts(folder)
    pictures, captions, said = (table[name].to_pylist() for name in ("image_id", "caption_id", "probability"))
    return dict(zip(zip(pictures, captions, strict=True), said, strict=True))


def _is_whole(part: Path, digest: str | None) -> bool:
    """Whether a file has the checksum that was noted when it was written."""
    try:
        return digest is not None and checksum(part) == digest
    except OSError:
        return False
