import numpy as np
import pytest

from truepair.relations.ranges import ranges, starts_of


@pytest.mark.parametrize("counts", [[], [0], [3], [2, 0, 0, 4, 1], [0, 5, 0]])
def test_ranges_are_those_of_a_slow_loop(counts: list[int]) -> None:
    lengths = np.array(counts, np.int64)
    first = np.arange(len(counts)) * 7 - 3
    owners, numbers = ranges(first, lengths)
    expected = [(owner, first[owner] + step) for owner, count in enumerate(counts) for step in range(count)]
    assert list(zip(owners.tolist(), numbers.tolist(), strict=True)) == expected
    assert owners.dtype == numbers.dtype == np.int64
    assert starts_of(lengths).tolist() == [sum(counts[:place]) for place in range(len(counts) + 1)]
