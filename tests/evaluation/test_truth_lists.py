import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.evaluation.truth import MatchLists


@settings(max_examples=60)
@given(pairs=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 9))), chosen=st.lists(st.integers(0, 5), max_size=8))
def test_lists_are_those_of_a_dictionary(pairs, chosen):
    flat = torch.tensor(sorted(pairs, key=hash), dtype=torch.int64).reshape(-1, 2)
    lists = MatchLists.from_pairs(flat[:, 0], flat[:, 1], 6).select(torch.tensor(chosen, dtype=torch.int64))
    expected = [sorted(c for q, c in pairs if q == query) for query in chosen]
    assert [part.tolist() for part in lists.members.split(lists.sizes.tolist())] == expected
    query, position, member = (part.tolist() for part in lists.entries())
    flattened = [(q, p, m) for q, found in enumerate(expected) for p, m in enumerate(found)]
    assert list(zip(query, position, member, strict=True)) == flattened
