import pytest
import torch

from truepair.mining.suspects import find_suspects
from truepair.models.fusion.gallery import EncodedCaptions, EncodedImages


class TableJudge:
    """Stands for a GalleryMatcher: its opinions are given as a matrix."""

    def __init__(self, log_odds: torch.Tensor, similarity: torch.Tensor) -> None:
        self.log_odds = log_odds
        self.images = EncodedImages(torch.empty(0), similarity)
        self.captions = EncodedCaptions(torch.empty(0), torch.empty(0), torch.eye(similarity.shape[1]))

    def __call__(self, images: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        return self.log_odds[images, captions]


def test_undeclared_pairs_in_order_of_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    log_odds, similarity = torch.randn(6, 6, generator=generator), torch.randn(6, 6, generator=generator)
    image_ids, keys = [0, 0, 1, 2, 3, 4], [10, 11, 12, 10, 13, 14]
    found, _ = find_suspects(TableJudge(log_odds, similarity), image_ids, keys, candidates=6)  # type: ignore[arg-type]
    declared = set(zip(image_ids, keys, strict=True))
    best: dict[tuple[int, int], float] = {}
    for image in range(6):
        for caption in range(6):
            pair = (image_ids[image], keys[caption])
            if pair not in declared:
                best[pair] = max(best.get(pair, -1e9), float(log_odds[image, caption]))
    expected = sorted(best.values(), reverse=True)
    torch.testing.assert_close([s.probability for s in found], [float(torch.tensor(x).sigmoid()) for x in expected])
    assert {(image_ids[s.image], keys[s.caption]) for s in found} == set(best)
    assert all(s.similarity == float(similarity[s.image, s.caption]) for s in found)


def test_without_itm_similarity_ranks_and_nobody_is_asked() -> None:
    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    judge = TableJudge(torch.full((6, 6), torch.nan), similarity)
    found, _ = find_suspects(judge, range(6), range(6), candidates=6, by_itm=False)  # type: ignore[arg-type]
    expected = sorted((float(similarity[i, j]) for i in range(6) for j in range(6) if i != j), reverse=True)
    assert [suspect.similarity for suspect in found] == expected
    assert {suspect.probability for suspect in found} == {None}


def test_only_neighbours_are_read_and_the_list_is_cut() -> None:
    similarity = torch.eye(5) + 0.5 * torch.eye(5).roll(1, 1)
    judge = TableJudge(similarity, similarity)
    found, tied = find_suspects(judge, range(5), range(5), candidates=2, limit=3)  # type: ignore[arg-type]
    assert [(s.image, s.caption) for s in found] == [(0, 1), (1, 2), (2, 3)] and not tied


@pytest.mark.parametrize("by_itm", [True, False])
def test_a_model_to_which_all_pictures_are_alike_suspects_nothing(by_itm: bool) -> None:
    captions = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    alike = captions.expand(6, 6)
    judge = TableJudge(alike, alike)
    assert find_suspects(judge, range(6), range(6), candidates=6, by_itm=by_itm) == ([], 30)  # type: ignore[arg-type]
    judge = TableJudge(alike.T, alike.T)
    assert find_suspects(judge, range(6), range(6), candidates=6, by_itm=by_itm) == ([], 30)  # type: ignore[arg-type]


def test_itm_that_says_the_same_of_all_pairs_suspects_nothing() -> None:
    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    judge = TableJudge(torch.full((6, 6), 0.7), similarity)
    assert find_suspects(judge, range(6), range(6), candidates=6) == ([], 30)  # type: ignore[arg-type]


def test_copies_of_a_picture_are_suspects_though_their_scores_are_equal() -> None:
    similarity = torch.tensor([[0.9, 0.9, 0.1, 0.0], [0.9, 0.9, 0.1, 0.0], [0.0, 0.2, 0.8, 0.1], [0.1, 0.0, 0.3, 0.9]])
    found, tied = find_suspects(TableJudge(similarity, similarity), range(4), range(4), candidates=2)  # type: ignore[arg-type]
    assert {(s.image, s.caption) for s in found[:2]} == {(0, 1), (1, 0)} and not tied
