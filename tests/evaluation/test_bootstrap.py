import numpy as np
import torch

from truepair.evaluation.bootstrap import drawn_groups, drawn_rows, percentile_interval, two_stage_weights


def test_blocks_do_not_change_what_is_drawn() -> None:
    whole, parts = (np.concatenate(list(drawn_rows(7, 20, seed=3, at_once=size))) for size in (10**6, 15))
    assert whole.shape == (20, 7)
    assert np.array_equal(whole, parts)
    groups = torch.tensor([4, 4, 2, 9, 9, 9])
    counts, in_parts = (torch.cat(list(drawn_groups(groups, 20, seed=3, at_once=size))) for size in (99, 20))
    assert torch.equal(counts, in_parts)


def test_groups_are_drawn_whole() -> None:
    groups = torch.tensor([4, 4, 2, 9, 9, 9])
    (counts,) = drawn_groups(groups, 30, seed=0)
    assert counts.shape == (30, 6)
    assert torch.equal(counts[:, 0], counts[:, 1]) and torch.equal(counts[:, 3], counts[:, 5])
    assert torch.equal(counts[:, 0] + counts[:, 2] + counts[:, 3], torch.full((30,), 3.0, dtype=torch.float64))


def test_stages_weigh_clusters_alike_on_average() -> None:
    weights = two_stage_weights([0, 0, 0, 1], 4000, seed=0)
    assert np.allclose(weights.sum(axis=1), 1.0)
    assert set(np.round(weights[:, 3], 3)) == {0.0, 0.25, 1.0}  # none, one or two draws of the small cluster


def test_an_interval_interpolates_or_takes_what_occurred() -> None:
    drawn = np.arange(1.0, 1001.0)
    assert percentile_interval(drawn, "inverted_cdf").tolist() == [25.0, 975.0]
    assert percentile_interval(drawn).tolist() == [25.975, 975.025]
    drawn[:30] = -np.inf
    assert percentile_interval(drawn, "inverted_cdf").tolist() == [-np.inf, 975.0]
