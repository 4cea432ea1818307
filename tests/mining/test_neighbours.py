import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.mining import neighbours
from truepair.mining.neighbours import Neighbours, nearest, nearest_both, upper_tiles


def require_nearest(found: Neighbours, scores: Tensor, count: int) -> None:
    """Check what was found against all scores [Q, V]."""
    best = scores.topk(min(count, scores.shape[1]), dim=1)
    torch.testing.assert_close(found.scores, best.values, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.gather(1, found.places), best.values, atol=1e-5, rtol=0)
    assert all(len(set(places)) == len(places) for places in found.places.tolist())
    assert found.recall == 1.0


@pytest.mark.parametrize(("size", "other", "tile"), [(1, 1, 4), (23, 9, 4), (24, 31, 8), (40, 40, 1024)])
def test_the_nearest_are_those_of_all_products(
    size: int, other: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_TILE", tile)
    generator = torch.Generator().manual_seed(size)
    left, right = torch.randn(size, 5, generator=generator), torch.randn(other, 5, generator=generator)
    left[size // 2] = left[0]  # equal vectors are found each once
    for count in (1, 7, 64):
        require_nearest(nearest(left, count), left @ left.T, count)
        found, back = nearest_both(left, right, count, 3)
        require_nearest(found, left @ right.T, count)
        require_nearest(back, right @ left.T, 3)


@pytest.mark.parametrize(("size", "height", "width"), [(0, 2, 3), (7, 2, 3), (8, 4, 4), (9, 2, 100)])
def test_tiles_serve_each_cell_of_a_square_once(size: int, height: int, width: int) -> None:
    served = torch.zeros(size, size)
    for rows, columns, new in upper_tiles(size, height, width):
        served[rows, columns] += 1
        served[new : columns.stop, rows] += 1
    assert bool((served == 1).all())


def test_an_inverted_file_finds_most_and_says_how_many() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(50, 8, generator=generator)
    vectors = F.normalize(centres.repeat(40, 1) + 0.3 * torch.randn(2000, 8, generator=generator), dim=1)
    exact, searched = nearest(vectors, 10), nearest(vectors, 10, exact=100)
    assert exact.recall == 1.0 and 0.8 < searched.recall <= 1.0
    right = vectors @ vectors.T
    torch.testing.assert_close(exact.scores, right.topk(10, dim=1).values, atol=1e-5, rtol=0)
    hits = [len(set(a) & set(b)) for a, b in zip(exact.places.tolist(), searched.places.tolist(), strict=True)]
    assert sum(hits) / 20_000 == pytest.approx(searched.recall, abs=0.05)


def test_cells_are_added_until_enough_is_found_or_all_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(6000, 16, generator=generator), dim=1)
    some = vectors[:200]
    right = (some @ vectors.T).topk(10, dim=1).indices
    found: dict[float, float] = {}
    monkeypatch.setattr(neighbours, "_PROBED", 2)
    monkeypatch.setattr(neighbours, "_SLOWER", 0.5)  # never as slow as all
    for enough in (0.0, 0.8, 0.97):
        monkeypatch.setattr(neighbours, "_ENOUGH", enough)
        searched = nearest_both(some, vectors, 10, 10, exact=100)[0]
        hits = sum(len(set(a) & set(b)) for a, b in zip(searched.places.tolist(), right.tolist(), strict=True))
        assert searched.recall == pytest.approx(hits / right.numel()) and searched.recall >= enough
        found[enough] = searched.recall
    assert found[0.0] < found[0.8] < found[0.97] < 1.0
    monkeypatch.setattr(neighbours, "_SLOWER", 40)
    flat, _ = nearest_both(some, vectors, 10, 10, exact=100)  # 77 cells: two take longer than all
    assert flat.recall == 1.0 and torch.equal(flat.places, right)
