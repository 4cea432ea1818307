import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.judges.given import GivenJudge, batch_of
from truepair.errors import CheckpointError, ConfigError
from truepair.judges.memory import MemorisedJudge, VerdictMemory

JUDGE = "ab" * 16
pairs = st.lists(st.tuples(st.integers(-3, 6), st.integers(-3, 6)), max_size=30)


def ids(query: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    columns = torch.tensor(query, dtype=torch.int64).reshape(-1, 2).T
    return columns[0], columns[1]


@settings(max_examples=60)
@given(queries=st.lists(pairs, max_size=12))
def test_it_answers_as_a_dictionary_and_asks_once(queries: list[list[tuple[int, int]]]) -> None:
    memory, known, asked = VerdictMemory(JUDGE), {}, []
    hits = 0
    for query in queries:
        images, captions = ids(query)

        def ask(places: Tensor, query: list[tuple[int, int]] = query) -> Tensor:
            assert places.tolist() == sorted(places.tolist())
            new = [query[place] for place in places.tolist()]
            asked.extend(new)
            return torch.tensor([len(asked) + i + 0.5 for i in range(len(new))])

        before = len(asked)
        scores = memory.scores(images, captions, ask)
        for number, pair in enumerate(asked[before:]):
            known[pair] = len(asked) + number + 0.5
        hits += len(query) - (len(asked) - before)
        assert scores.tolist() == [known[pair] for pair in query]
    assert len(asked) == len(set(asked)) == len(memory)
    assert (memory.hits, memory.misses) == (hits, len(asked))


def remembered(memory: VerdictMemory, image_ids: torch.Tensor, caption_ids: torch.Tensor) -> torch.Tensor:
    """What a memory holds of pairs, NaN where nothing; it stays as it is."""
    copy = VerdictMemory(memory.fingerprint)
    copy.load_state_dict(memory.state_dict())
    return copy.scores(image_ids, caption_ids, lambda places: torch.full((len(places),), torch.nan))


def test_runs_stay_few_and_long_ones_are_seldom_moved() -> None:
    memory = VerdictMemory(JUDGE)
    for step in range(200):
        images = torch.arange(step * 50, step * 50 + 50)
        memory.scores(images, images + 1, lambda places: places.float())
    lengths = [len(keys) for keys, _ in memory._runs]
    assert sum(lengths) == len(memory) == 10_000
    assert len(lengths) <= 9
    assert all(longer > 2 * shorter for longer, shorter in itertools.pairwise(lengths))
    held = remembered(memory, torch.tensor([0, 9999, 5]), torch.tensor([1, 10_000, 5]))
    assert held.nan_to_num(-1).tolist() == [0, 49, -1]


def test_a_restored_memory_goes_on_as_the_saved_one() -> None:
    memory = VerdictMemory(JUDGE)
    for step in range(7):
        images = torch.arange(step * 3, step * 3 + 5)
        memory.scores(images, -images, lambda places: places / 8)
    restored = VerdictMemory(JUDGE)
    restored.load_state_dict(memory.state_dict())
    assert (restored.hits, restored.misses, len(restored)) == (memory.hits, memory.misses, len(memory))
    images = torch.arange(30)
    held, wanted = (remembered(one, images, -images) for one in (restored, memory))
    torch.testing.assert_close(held, wanted, equal_nan=True)
    assert all(isinstance(value, Tensor) for value in memory.state_dict().values())
    with pytest.raises(CheckpointError, match="judge abababab"):
        VerdictMemory("cd" * 16).load_state_dict(memory.state_dict())


def test_an_empty_memory_can_be_saved() -> None:
    memory = VerdictMemory(JUDGE)
    memory.load_state_dict(VerdictMemory(JUDGE).state_dict())
    assert (memory.hits, memory.misses, len(memory)) == (0, 0, 0)


def test_beyond_the_limit_it_answers_but_does_not_keep() -> None:
    memory = VerdictMemory(JUDGE, limit=4)
    images = torch.arange(10)
    for _ in range(2):
        assert memory.scores(images, images, lambda places: places / 10).tolist() == (images / 10).tolist()
    assert len(memory) == 4 and memory.misses == 10 + 6
    with pytest.raises(ConfigError, match="memory_limit"):
        VerdictMemory(JUDGE, limit=0)


def test_a_memorised_judge_is_asked_once_over_batches() -> None:
    judge = GivenJudge(torch.rand(8, 8, generator=torch.Generator().manual_seed(0)))
    memorised = MemorisedJudge(judge, VerdictMemory(judge.fingerprint))
    first, second = batch_of(torch.tensor([5, 2, 7])), batch_of(torch.tensor([7, 5, 0]))
    images, texts = torch.tensor([0, 0, 1, 0]), torch.tensor([1, 2, 2, 1])
    torch.testing.assert_close(memorised.score(first, images, texts), judge.table[[5, 5, 2, 5], [2, 7, 7, 2]])
    torch.testing.assert_close(
        memorised.score(second, torch.tensor([1, 2]), torch.tensor([0, 1])), judge.table[[5, 0], [7, 5]]
    )
    assert judge.asked == [(5, 2), (5, 7), (2, 7), (0, 5)]
    assert (memorised.memory.hits, memorised.memory.misses) == (2, 4)
    with pytest.raises(ValueError, match="another judge"):
        MemorisedJudge(judge, VerdictMemory(JUDGE))
