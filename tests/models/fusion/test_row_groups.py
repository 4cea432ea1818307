import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.models.fusion.rows import RowGroups


@st.composite
def rows_and_count(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    count = draw(st.integers(1, 9))
    rows = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=40))
    return torch.tensor(rows), count


@settings(max_examples=60)
@given(rows_and_count())
def test_each_row_sits_alone_in_a_slot_of_its_source(case: tuple[torch.Tensor, int]) -> None:
    rows, count = case
    groups = RowGroups.of(rows, count)
    assert len(set(groups.place.tolist())) == len(rows)
    assert torch.equal(groups.source[groups.place // groups.size], rows)


@settings(max_examples=60)
@given(rows_and_count())
def test_slots_and_places_stay_within_twice_the_least(case: tuple[torch.Tensor, int]) -> None:
    rows, count = case
    groups = RowGroups.of(rows, count)
    assert groups.size == -(-len(rows) // count)
    assert len(groups.source) <= count + len(rows) // groups.size
    assert groups.in_order == (groups.source.tolist() == list(range(count)))


@settings(max_examples=30)
@given(rows_and_count())
def test_unpack_undoes_pack(case: tuple[torch.Tensor, int]) -> None:
    rows, count = case
    groups = RowGroups.of(rows, count)
    states = torch.randn(len(rows), 3, 4, generator=torch.Generator().manual_seed(0))
    packed = groups.pack(states)
    assert packed.shape == (len(groups.source), groups.size * 3, 4)
    assert torch.equal(groups.unpack(packed), states)


def test_expanding_sums_the_gradients_of_a_source() -> None:
    groups = RowGroups.of(torch.tensor([0, 0, 0, 1]), 2)  # two places a slot, so source 0 has two slots
    sources = torch.ones(2, 1, requires_grad=True)
    groups.expand(sources).sum().backward()
    assert sources.grad.flatten().tolist() == [2.0, 1.0]


def test_even_groups_copy_nothing() -> None:
    groups = RowGroups.of(torch.tensor([2, 0, 1, 1, 0, 2]), 3)
    sources = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert groups.expand(sources) is sources
