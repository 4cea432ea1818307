"""NLVR2: accuracy over statements, and consistency over sentences."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from truepair.errors import DataError
from truepair.files import write_text


@dataclass(frozen=True)
class Nlvr2Metrics:
    """Figures of one model; shares between 0 and 1.

    Attributes:
        accuracy: share of statements judged rightly.
        consistency: share of distinct sentences all of whose statements (one for each pair of images) are judged
            rightly.
        statements: how many.
        sentences: how many distinct ones.
    """

    accuracy: float
    consistency: float
    statements: int
    sentences: int


def nlvr2_metrics(
    predictions: Mapping[str, bool], labels: Mapping[str, bool], sentences: Mapping[str, str] | None = None
) -> Nlvr2Metrics:
    """Score judgements of statements (Suhr et al., ACL 2019, section 6).

    Args:
        predictions: identifier (``split-set-pair-sentence``) to judgement.
        labels: identifier to truth; each of these statements must be judged.
        sentences: identifier to text, where identifiers are of another form: statements of one text are one sentence.

    Raises:
        DataError: no statements, one without a judgement, or an identifier of another form.
    """
    missing = [identifier for identifier in labels if identifier not in predictions]
    if missing or not labels:
        raise DataError(f"{len(missing)} of {len(labels)} statements have no judgement; judge each of them")
    right = {identifier: predictions[identifier] == truth for identifier, truth in labels.items()}
    whole: dict[tuple[str, ...], bool] = {}
    for identifier, correct in right.items():
        parts = identifier.split("-")
        if sentences is not None:
            sentence: tuple[str, ...] = (sentences[identifier],)
        elif len(parts) == 4:
            sentence = (*parts[:2], parts[3])
        else:
            raise DataError(f"identifier is '{identifier}'; it must read split-set-pair-sentence")
        whole[sentence] = whole.get(sentence, True) and correct
    return Nlvr2Metrics(
        accuracy=sum(right.values()) / len(right),
        consistency=sum(whole.values()) / len(whole),
        statements=len(right),
        sentences=len(whole),
    )


def write_nlvr2_results(predictions: Mapping[str, bool], path: str | Path) -> None:
    """Write judgements as the official scorer takes them: CSV lines of identifier and True or False, in order.

    Raises:
        DataError: the disk refuses.
    """
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(sorted(predictions.items()))
    write_text(Path(path), lines.getvalue())
