"""Which rows hard batches keep apart, by a ledger and by the run's own judge, against loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.judges.given import GivenJudge
from tests.methods.steps import IDS, ecm, info, pairs, student, verdicts
from truepair.data.table import PairTable
from truepair.errors import ConfigError
from truepair.methods.apart import pairs_apart, probable_pairs
from truepair.methods.ecm import Ecm
from truepair.methods.encode import BatchEncoder, MicroBatches
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.methods.step import ObjectivesConfig, PretrainStep
from truepair.objectives.mlm import TokenMasker
from truepair.relations.ledger import Ledger, VerdictIndex, open_index


def table_of(images: list[int], captions: list[list[int]]) -> PairTable:
    """Rows of image ids and caption ids."""
    columns = {
        "image": [{"bytes": str(image).encode(), "path": None} for image in images],
        "image_id": images,
        "captions": [[f"caption {number}" for number in own] for own in captions],
        "caption_ids": captions,
        "split": ["train"] * len(images),
    }
    return PairTable(Dataset.from_dict(columns), "made")


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(["draw", "first", "pairs"]), st.floats(0.1, 0.9))
def test_probable_pairs_are_those_of_loops(seed: int, captions: str, below: float) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(5, size=8).tolist()
    numbers = iter(range(100))
    owned = [[next(numbers) for _ in range(1 if captions == "pairs" else rng.integers(1, 4))] for _ in images]
    said = {(int(rng.integers(6)), int(rng.integers(20))): float(rng.random()) for _ in range(25)}
    index = VerdictIndex(*np.array(list(said), np.int64).T, np.array(list(said.values())))
    found = probable_pairs(index, table_of(images, owned), captions, below)
    expected = set()
    for one, image in enumerate(images):
        for other, own in enumerate(owned):
            read = own if captions == "draw" else own[:1]
            if one != other and any(np.float32(said.get((image, caption), 0.0)) >= below for caption in read):
                expected.add((min(one, other), max(one, other)))
    assert [tuple(pair) for pair in found.tolist()] == sorted(expected)


def test_people_have_the_last_word_and_other_data_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        cells = torch.tensor([[0, 1], [1, 2], [2, 0]])
        ledger.record(cells[:, 0], cells[:, 1], torch.tensor([0.9, 0.8, 0.2]), judge="mined:a")
        ledger.record(cells[:1, 0], cells[:1, 1], torch.tensor([0.0]), judge="person:b")
    table = table_of([0, 1, 2], [[0], [1], [2]])
    pairs_found, line = pairs_apart("mined/ledger", open_index(tmp_path), table, "first", 0.3)
    assert pairs_found.tolist() == [[1, 2]]
    assert line == (
        "mined/ledger: 1 pairs of rows match with a probability of 0.3 or more; hard batches keep them apart "
        "(sampler.hardness.below)"
    )
    with pytest.raises(ConfigError, match="none of its 3 verdicts is about a training pair; it is of other data"):
        pairs_apart("mined/ledger", open_index(tmp_path), table_of([7], [[7]]), "first", 0.3)


@pytest.mark.parametrize("ask", ["hardest", "all", "rules"])
@pytest.mark.parametrize("doubt", [None, 0.3, 0.8])
def test_the_judge_of_a_run_tells_the_sampler(ask: str, doubt: float | None) -> None:
    """Whatever it was asked about, and said to be as probable as that."""
    batch = pairs(list(range(6)))
    rule = [{"detector": "judge", "action": "mask"}] if ask == "rules" else []
    config = ecm(ask=ask, low=0.3, high=0.5)
    rules = RuleSet(RelationsConfig(rules=rule), config.rules())
    judge = GivenJudge(verdicts())
    model = student()
    step = PretrainStep(
        model,
        BatchEncoder(model, parts=MicroBatches(0)),
        ObjectivesConfig(),
        rules,
        masker=TokenMasker(4, [0, 1, 2, 3], model.config.vocab_size, ObjectivesConfig().mlm.masking),
        ecm=Ecm(config, judge, doubt=doubt),
    )
    found = step(batch, info()).probable
    if doubt is None:
        assert found is None
        return
    expected = sorted(cell for cell in set(judge.asked) if verdicts()[cell] >= doubt)
    assert sorted(map(tuple, found.tolist())) == expected
    assert len(judge.asked) < IDS**2 and step.ecm is not None and step.ecm.probable() is None  # told once
