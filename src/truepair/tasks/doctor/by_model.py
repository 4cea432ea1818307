"""What a dual encoder says of pairs: pictures that are nearly equal, captions that do not fit, false negatives."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from truepair.mining.candidates import Candidates
from truepair.mining.neighbours import nearest
from truepair.tasks.doctor.diagnosis import Diagnosis, Example, FalseNegatives, Finding
from truepair.tasks.doctor.findings import SHOWN, row_examples
from truepair.tasks.doctor.patient import Counting, Patient
from truepair.tasks.retriever import Retriever

Vectors = NDArray[np.float32]

_NEIGHBOURS = 8  # of each picture, that may be nearly equal

_DRAWN = 2000  # pictures, and captions, whose cells estimate how many match

_ODD = 3.0  # standard deviations below the mean, by the median and its spread, from which on a pair is suspected

_TO_SIGMA = 1.4826  # of the median distance from the median, for a normal distribution


def examine_by_model(diagnosis: Diagnosis, patient: Patient, model: Retriever, count: Counting) -> Diagnosis:
    """Add what a model says.

    Args:
        diagnosis: what was found without it.
        patient: the table.
        model: compares pictures with each other and with captions.
        count: a label to a context that shows a bar.
    """
    assert patient.facts is not None
    rows = patient.unit_rows[patient.there[patient.facts.decoded]]  # [P]
    with count("pictures, by the model") as progress:
        images = _images(patient, rows, model, progress)
    texts = model.encode_texts(patient.texts)  # [T, E]
    place = np.full(len(patient.unit_rows), -1)
    place[patient.units[rows]] = np.arange(len(rows))
    picture = place[patient.units[patient.caption_rows]]  # [S], -1 where it cannot be read
    known = np.flatnonzero(picture >= 0)
    fit = np.full(len(picture), np.nan, np.float32)
    for start in range(0, len(known), 65_536):
        part = known[start : start + 65_536]
        fit[part] = (images[picture[part]] * texts[patient.coded[part]]).sum(axis=1)
    findings = [_near(patient, rows, images), _mismatched(patient, fit)]
    negatives = _estimated(patient, diagnosis.false_negatives, images, texts, picture, fit)
    return replace(diagnosis, findings=[*diagnosis.findings, *findings], false_negatives=negatives)


def estimate_by_mined(negatives: FalseNegatives, folder: Path) -> FalseNegatives:
    """The estimate of mined pairs: those that are certain, and the sum of mined probabilities over all mined cells.

    Raises:
        DataError: the folder holds no candidates.
    """
    mined = Candidates.load(folder)
    probable = float((1 / (1 + np.exp(-mined.prior.astype(np.float64)))).sum())
    # A picture with several captions is drawn with one of them.
    share = probable / (len(mined.paths) * max(len(mined.texts), 1))
    undeclared = share * (negatives.cells - negatives.certain)
    return replace(
        negatives, estimated=round(negatives.certain + undeclared, 4), by=f"the undeclared pairs mined in {folder}"
    )


def _images(
    patient: Patient, rows: NDArray[np.int64], model: Retriever, progress: Callable[[int, int], None]
) -> Vectors:
    """The vectors of some rows' pictures, all of which can be decoded [P, E]."""
    vectors = np.zeros((len(rows), model.embed_dim), np.float32)
    step = 1024
    for start in range(0, len(rows), step):
        cells = patient.table.select(rows[start : start + step]).values("image")
        vectors[start : start + step] = model.encode_images(cells)
        progress(min(start + step, len(rows)), len(rows))
    return vectors


def _near(patient: Patient, rows: NDArray[np.int64], images: Vectors) -> Finding:
    """Pictures whose features are nearly equal."""
    features = torch.from_numpy(images)
    found = nearest(features, min(_NEIGHBOURS + 1, len(images))) if len(images) else None
    left, right = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if found is not None:
        one = np.repeat(np.arange(len(images)), found.places.shape[1])
        other, score = found.places.numpy().ravel(), found.scores.numpy().ravel()
        near = (other >= 0) & (one != other) & (score >= patient.config.near)
        left, right = one[near], other[near]
    groups = patient.nearly(rows[left], rows[right])
    near_groups = np.flatnonzero(groups.distinct(patient.groups.numbers) > 1)
    return Finding(
        "near_by_model",
        f"groups of pictures are nearly the same to the model (cosine {patient.config.near:g} or more)",
        len(near_groups),
        len(patient.groups),
        "note",
        "look at them; each is a false negative where two of a group meet",
        "model",
        row_examples(patient, groups, near_groups, labels=patient.groups.numbers),
    )


def _mismatched(patient: Patient, fit: Vectors) -> Finding:
    """Pairs whose picture and caption the model finds least alike.

    Args:
        patient: the table.
        fit: cosine of each stated caption with its picture [S]; NaN where that cannot be read.
    """
    known = np.flatnonzero(~np.isnan(fit))
    values = fit[known]
    middle = float(np.median(values)) if len(values) else 0.0
    spread = _TO_SIGMA * float(np.median(np.abs(values - middle))) if len(values) else 0.0
    order = known[np.argsort(values, kind="stable")]
    odd = int((values < middle - _ODD * spread).sum()) if spread else 0
    examples = []
    for place in order[: max(SHOWN, min(odd, 10 * SHOWN))].tolist():
        row = int(patient.caption_rows[place])
        text = f"{patient.texts[int(patient.coded[place])]} (cosine {fit[place]:.2f}, usually {middle:.2f})"
        examples.append(Example(text, (row,), (patient.files[int(patient.units[row])],)))
    return Finding(
        "mismatched",
        "captions fit their picture far worse than is usual, by the model",
        odd,
        len(known),
        "warning",
        "look at them: rows may be shifted, or captions may be of other pictures",
        "model",
        examples,
    )


def _estimated(
    patient: Patient,
    negatives: FalseNegatives,
    images: Vectors,
    texts: Vectors,
    picture: NDArray[np.int64],
    fit: Vectors,
) -> FalseNegatives:
    """How many cells of a batch fit as well as the usual pair does: an upper bound for a weak model."""
    known = np.flatnonzero(~np.isnan(fit))
    if len(known) < 2:
        return negatives
    generator = np.random.default_rng(0)
    drawn = generator.choice(known, min(_DRAWN, len(known)), replace=False)
    scores = images[picture[drawn]] @ texts[patient.coded[drawn]].T  # [D, D]
    keys = patient.faults.keys[patient.coded[drawn]]
    groups = patient.groups.numbers[patient.caption_rows[drawn]]
    declared = (groups[:, None] == groups) | (keys[:, None] == keys)
    usual = float(np.median(fit[known]))
    share = float((scores[~declared] >= usual).mean()) if not declared.all() else 0.0
    return replace(
        negatives,
        estimated=round(negatives.certain + share * (negatives.cells - negatives.certain), 4),
        by="the model: undeclared pairs that fit as well as the usual declared one",
    )
