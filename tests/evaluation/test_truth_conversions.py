import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.judges.given import batch_of
from truepair.data.open import open_pairs
from truepair.evaluation.truth import ConversionCounter, Truth
from truepair.relations.pairs import PairSet
from truepair.relations.text import caption_key


def cells(pairs: list[tuple[int, int]], size: int) -> PairSet:
    rows, columns = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    return PairSet(rows, columns, torch.ones(len(rows)), (size, size))


def test_truth_of_a_table_is_that_of_its_groups(squares: Path) -> None:
    table = open_pairs(squares / "pairs.jsonl")
    truth = Truth.from_table(table)
    assert truth is not None
    groups, captions = list(table.rows["group"]), [row[0] for row in table.rows["captions"]]
    size = len(table)
    rows = torch.arange(size).repeat_interleave(size)
    keys = torch.tensor([caption_key(caption) for caption in captions]).repeat(size)
    expected = [one == other for one in groups for other in groups]
    assert truth.matches(rows, keys).tolist() == expected
    assert not truth.matches(torch.tensor([0, 0]), torch.tensor([caption_key("unheard of"), 2**62])).any()


def test_a_table_without_truth_has_none(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "pairs.jsonl").write_text('{"image": "a.png", "captions": ["a dog"]}\n')
    assert Truth.from_table(open_pairs(tmp_path / "pairs.jsonl")) is None


@settings(max_examples=50)
@given(data=st.data())
def test_figures_are_those_of_a_loop_over_all_cells(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    texts = [f"text {data.draw(st.integers(0, 4))}" for _ in range(size)]
    batch = batch_of(torch.arange(size), texts)
    pairs = st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=12)
    known = [(i, i) for i in range(size)] + data.draw(pairs)
    truth = Truth.of_matches(np.array([i for i, _ in known]), np.array([caption_key(texts[j]) for _, j in known]))
    true = {(i, texts[j]) for i, j in known}
    counter, converted_all, judged_all, batch_all, right_all = ConversionCounter(truth), 0, 0, 0, 0
    for _ in range(2):
        judged, converted = data.draw(pairs), data.draw(pairs)
        counter.add(batch, cells(converted, size), cells(judged, size))
        hidden = {(i, j) for i in range(size) for j in range(size) if texts[i] != texts[j] and (i, texts[j]) in true}
        counted = {(i, j) for i, j in converted if texts[i] != texts[j]}
        converted_all, right_all = converted_all + len(counted), right_all + len(counted & hidden)
        judged_all, batch_all = judged_all + len(hidden & set(judged)), batch_all + len(hidden)
    figures = counter.figures()
    assert figures["conversions_right"] == right_all
    for name, whole in (
        ("conversion_precision", converted_all),
        ("conversion_recall_judged", judged_all),
        ("conversion_recall", batch_all),
    ):
        assert (name in figures) == bool(whole)
        if whole:
            assert figures[name] == pytest.approx(right_all / whole)
    counter.reset()
    assert set(counter.figures().values()) == {0.0}


@settings(max_examples=50)
@given(data=st.data())
def test_hidden_pairs_of_a_table_are_the_hidden_matches_of_all_its_rows(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 7))
    images = torch.tensor([data.draw(st.integers(0, 4)) for _ in range(size)])
    texts = [f"text {data.draw(st.integers(0, 4))}" for _ in range(size)]
    groups = [data.draw(st.sampled_from(["a", "b", None])) for _ in range(size)]
    truth = Truth.from_names([[text] for text in texts], groups=groups)
    batch = replace(batch_of(torch.arange(size), texts), image_id=images)
    found = truth.hidden_pairs(images, batch.caption_key)
    assert len(found) == len(found.distinct())
    hidden = truth.hidden_matches(batch)
    assert torch.equal(found.mask(), hidden)
    for row, column in itertools.product(range(size), repeat=2):
        same = images[row] == images[column] or texts[row] == texts[column]
        wanted = bool(truth.matches(batch.source_index[row : row + 1], batch.caption_key[column : column + 1]))
        assert bool(hidden[row, column]) == (wanted and not same)
    some = slice(0, None, 2), slice(1, None, 3)
    assert torch.equal(truth.hidden_matches(batch, *some), hidden[some])


def test_rows_and_captions_that_a_truth_does_not_know_are_no_hidden_matches() -> None:
    truth = Truth.of_matches(np.array([0, 1]), np.array([5, 5]))
    batch = replace(batch_of(torch.tensor([0, 1, 7]), ["a", "b", "c"]), caption_key=torch.tensor([9, 5, 6]))
    assert truth.hidden_matches(batch).nonzero().tolist() == [[0, 1]]


def test_captions_that_a_truth_does_not_know_hide_nothing() -> None:
    truth = Truth.from_names([["a dog"], ["a dog on grass"], ["a cat"]], groups=["dog", "dog", "cat"])
    batch = batch_of(torch.tensor([1, 0, 2, 0]), ["a dog", "unheard of", "a cat", "a dog on grass"])
    hidden = truth.hidden_matches(replace(batch, image_id=torch.arange(4)))
    expected = {(0, 3), (1, 0), (1, 3), (3, 0)}  # rows 1 and 0 of the truth show dogs
    assert {(int(i), int(j)) for i, j in hidden.nonzero()} == expected


@settings(max_examples=50)
@given(data=st.data())
def test_words_of_a_pair_are_those_of_its_relations(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    texts = [f"text {data.draw(st.integers(0, 4))}" for _ in range(size)]
    labels = st.lists(st.sampled_from(["a", "b", None]), min_size=size, max_size=size)
    groups, families = data.draw(labels), data.draw(labels)
    truth = Truth.from_names([[text] for text in texts], groups=groups, families=families)
    images, captions = (
        part.flatten() for part in torch.meshgrid(*map(torch.arange, (size, truth.captions)), indexing="ij")
    )
    own, true, ignored = (set(map(tuple, pairs.tolist())) for pairs in (truth.own, truth.true, truth.ignored))
    assert true >= own and not true & ignored
    marks = truth.marks(images, captions).tolist()
    verdicts = truth.verdicts(
        images, torch.tensor([caption_key(truth.texts[caption]) for caption in captions])
    ).tolist()
    for pair, mark, verdict in zip(zip(images.tolist(), captions.tolist(), strict=True), marks, verdicts, strict=True):
        near = "near" if pair in ignored else None
        known = groups[pair[0]] is not None
        other = near or ("wrong" if known else "unknown")
        assert mark == ("own" if pair in own else "true" if pair in true else other)
        assert verdict == ("unknown" if not known else "true" if pair in true else near or "false")
