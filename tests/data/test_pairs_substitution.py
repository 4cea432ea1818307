import json
from types import SimpleNamespace

import pytest
import torch

from truepair.data import Substitution, SubstitutionLog
from truepair.errors import DataError


def batch(*reasons, start=0):
    index = torch.arange(start, start + len(reasons))
    moved = index + torch.tensor([bool(reason) for reason in reasons]).long()
    return SimpleNamespace(index=index, source_index=moved, reasons=list(reasons))


def test_substituted_rows_are_counted_and_listed_once():
    log = SubstitutionLog(max_fraction=1.0)
    log.update(batch("", "torn", "", "empty"))
    log.update(batch("", "torn"))

    assert (log.visits, log.count) == (6, 3)
    assert log.entries == [Substitution(1, 2, "torn"), Substitution(3, 4, "empty")]


def test_a_run_with_too_many_stops():
    log = SubstitutionLog(max_fraction=0.1, min_visits=20)
    log.update(batch(*["torn"] * 3, *[""] * 16))

    with pytest.raises(DataError, match=r"3 of 20 samples could not be read, over the limit of 10\.0%.*the last: torn"):
        log.update(batch(""))


def test_exactly_the_limit_is_allowed():
    log = SubstitutionLog(max_fraction=0.1, min_visits=20)

    log.update(batch("torn", "torn", *[""] * 18))

    assert log.count == 2


def test_its_state_survives_a_checkpoint():
    log, resumed = SubstitutionLog(max_fraction=0.5), SubstitutionLog(max_fraction=0.5)
    log.update(batch("torn", "", ""))

    resumed.load_state(json.loads(json.dumps(log.state())))

    assert (resumed.visits, resumed.count, resumed.entries) == (log.visits, log.count, log.entries)
