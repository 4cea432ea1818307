"""Curves by epoch: who met in a batch, and what the judge made of it."""

from collections.abc import Mapping

from truepair.reports.data import Line, Plot
from truepair.reports.series import Records, epoch_line

COUNT_TITLES = {
    "ecm/conversions_batch_true": "false negatives in batches",
    "ecm/conversions_converted": "pairs converted",
    "ecm/conversions_right": "of them true",
}
ZONE_TITLES = {  # all that is counted where the truth is not known
    "ecm/all/above": "pairs converted",
    "relations/con_d/relabel": "pairs converted by a rule",
    "ecm/i2t/above": "captions of a picture converted",
    "ecm/t2i/above": "pictures of a caption converted",
}
SHARE_TITLES = {"ecm/conversion_precision": "precision", "ecm/conversion_recall": "recall"}


def batch_plots(logs: Mapping[str, Records]) -> list[Plot]:
    """How hard the batches were, and how many of their partners show the same, as far as it was logged.

    Args:
        logs: name of each run -> its records, as ``read_log`` gives them.
    """
    hardest = [line for run, records in logs.items() for line in epoch_line(records, "hardest_similarity", run)]
    rates = [line for run, records in logs.items() for line in epoch_line(records, "false_negative_rate", run)]
    chance: list[Line] = []
    for records in logs.values():  # runs on the same data have the same line
        found = epoch_line(records, "random_false_negative_rate", "random batches on average")
        chance += [line for line in found if line.y[0] not in [known.y[0] for known in chance]]
    plots = []
    if hardest:
        plots.append(Plot(title="Hardest in-batch negative: similarity", x_label="epoch", lines=hardest))
    if rates:
        title = "False-negative rate of batches, and of random ones"
        plots.append(Plot(title=title, x_label="epoch", lines=rates + chance, percent=True))
    return plots


def conversion_plots(logs: Mapping[str, Records]) -> list[Plot]:
    """How many pairs each run's judge converted in an epoch, and, where truth is known, how well it chose.

    Counts are of meetings in a batch: a pair that meets again counts again.

    Args:
        logs: name of each run -> its records.
    """
    managed = {run: records for run, records in logs.items() if _lines(records, COUNT_TITLES | ZONE_TITLES)}
    plots = []
    for run, records in managed.items():
        of_run = f", {run}" if len(managed) > 1 else ""
        counts = _lines(records, COUNT_TITLES) or _lines(records, ZONE_TITLES)
        plots.append(Plot(title=f"Conversions in an epoch{of_run}", x_label="epoch", lines=counts))
        shares = _lines(records, SHARE_TITLES)
        if shares:
            title = f"Conversions: precision and recall{of_run}"
            plots.append(Plot(title=title, x_label="epoch", lines=shares, percent=True))
    return plots


def _lines(records: Records, titles: Mapping[str, str]) -> list[Line]:
    """A line for each of some numbers that the epochs of a run have."""
    return [line for name, title in titles.items() for line in epoch_line(records, name, title)]
