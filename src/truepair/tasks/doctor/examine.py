"""The whole examination of a source."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from truepair.data.tokens import OwnTokenization, Tokenization, load_tokenizer, tells_case
from truepair.data.transforms import TransformConfig
from truepair.methods.recipe import TextConfig
from truepair.models.encoders.minilm import minilm_folder
from truepair.models.open import OpenedModel, open_model
from truepair.tasks.doctor.batches import BatchDraws
from truepair.tasks.doctor.by_model import estimate_by_mined, examine_by_model
from truepair.tasks.doctor.config import DoctorConfig, named_sources, open_source
from truepair.tasks.doctor.diagnosis import Diagnosis, FalseNegatives, quantiles
from truepair.tasks.doctor.findings import caption_findings, file_findings, same_findings, token_findings
from truepair.tasks.doctor.patient import Counting, Patient
from truepair.tasks.retriever import Retriever

_LICENCES = ("license", "licence", "rights", "copyright", "license_url", "license_name")

_LICENCES_SHOWN = 20


def diagnose(config: DoctorConfig, say: Callable[[str], None], count: Counting) -> tuple[Diagnosis, Patient]:
    """Look for everything that can be wrong with some pairs, with the model and the mined folder that the config names.

    Args:
        config: what is examined.
        say: prints a line.
        count: a label to a context that shows a bar, such as ``counting``.

    Returns:
        What was found, and the table with all that is known of it.

    Raises:
        DataError: a source cannot be read at all.
        ConfigError: no source is named, or the tokenizer is not installed.
        CheckpointError: there is no such model.
    """
    opened = None if config.model is None else open_model(config.model)
    diagnosis, patient = examine(config, say, count, opened)
    if opened is not None:
        diagnosis = examine_by_model(diagnosis, patient, Retriever(opened), count)
    if config.mined is not None:
        by_mined = estimate_by_mined(diagnosis.false_negatives, Path(config.mined))
        diagnosis = replace(diagnosis, false_negatives=by_mined)
    return diagnosis, patient


def tokenization_of(config: DoctorConfig, model: OpenedModel | None) -> tuple[Tokenization, int]:
    """Who reads the captions, and how many tokens of one.

    Raises:
        ConfigError: there is no such tokenizer, or the model reads fewer tokens.
    """
    if model is not None:
        as_it_is = TransformConfig(size=0, normalisation="encoder")
        preprocessing = model.preprocessing.adapted(as_it_is, config.max_length)
        return preprocessing.tokenization, preprocessing.max_length
    folder = minilm_folder() if config.tokenizer == "minilm" else config.tokenizer
    length = config.max_length or TextConfig().max_length
    return OwnTokenization(load_tokenizer(folder), length), length


def examine(
    config: DoctorConfig, say: Callable[[str], None], count: Counting, model: OpenedModel | None = None
) -> tuple[Diagnosis, Patient]:
    """Look for everything that can be wrong with some pairs.

    Args:
        config: what is examined.
        say: prints a line.
        count: a label to a context that shows a bar, such as ``counting``.
        model: its tokenizer reads the captions.

    Returns:
        What was found, and the table with all that is known of it.

    Raises:
        DataError: a source cannot be read at all.
        ConfigError: no source is named, or the tokenizer is not installed.
    """
    tokenization, length = tokenization_of(config, model)
    identity = "bytes" if config.pictures else "file"
    opened = open_source(replace(config.data, identity=identity), say)
    patient = Patient(opened.table.read_by_case(tells_case(tokenization)), config, count)
    findings = [*file_findings(patient), *same_findings(patient, opened.contradiction), *caption_findings(patient)]
    with count("tokens") as progress:
        by_tokens, unknown = token_findings(patient, tokenization, length, progress)
    facts, table = patient.facts, patient.table
    sizes = {}
    if facts is not None:
        width, height = facts.sizes[facts.decoded].T
        sizes = {"width": quantiles(width), "height": quantiles(height), "aspect": quantiles(width / height, 2)}
    pictures = patient.groups.numbers[patient.caption_rows]
    words = np.array([len(text.split()) for text in patient.texts], np.int64)
    faults = patient.faults
    spoken = np.bincount(faults.scripts, patient.stated, minlength=len(faults.script_names)).astype(int).tolist()
    scripts = Counter({name: count for name, count in zip(faults.script_names, spoken, strict=True) if count})
    diagnosis = Diagnosis(
        table=table,
        sources=named_sources(config.data),
        opened=config.pictures,
        findings=[*findings, *by_tokens],
        sizes=sizes,
        captions_a_picture=dict(sorted(Counter(np.bincount(pictures).tolist()).items())),
        words=quantiles(words[patient.coded]),
        scripts=dict(scripts.most_common()),
        licences=_licences(patient),
        pictures=len(patient.groups),
        false_negatives=_false_negatives(patient),
        tokenizer=f"{config.model or config.tokenizer}, {length} tokens",
        unknown_tokens=unknown,
    )
    return diagnosis, patient


def _licences(patient: Patient) -> dict[str, int]:
    """Licences as columns of the source state them, and how many rows have each."""
    columns = {name.lower(): name for name in patient.table.rows.column_names}
    for name in _LICENCES:
        if name in columns:
            stated = Counter(value or "none stated" for value in patient.table.values(columns[name]))
            return dict(stated.most_common(_LICENCES_SHOWN))
    return {}


def _false_negatives(patient: Patient) -> FalseNegatives:
    """Of a batch of training pairs, or of all pairs where there are none to train on."""
    data, batch = patient.config.data, patient.config.batch
    names = {name for name in data.train_split.split("+") if name}
    trained = [number for number, name in enumerate(patient.split_names) if not names or name in names]
    chosen = np.isin(patient.splits[patient.caption_rows], trained or range(len(patient.split_names)))
    draws = BatchDraws.of(
        patient.caption_rows[chosen],
        patient.groups.numbers[patient.caption_rows][chosen],
        patient.faults.keys[patient.coded][chosen],
        data.captions,
    )
    batch = min(batch, draws.count)
    return FalseNegatives(batch, batch * (batch - 1), round(draws.expected(batch), 4))
