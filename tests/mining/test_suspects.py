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
    found = find_suspects(TableJudge(log_odds, similarity), image_ids, keys, candidates=6)  # type: ignore[arg-type]
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
    found = find_suspects(judge, range(6), range(6), candidates=6, by_itm=False)  # type: ignore[arg-type]
    expected = sorted((float(similarity[i, j]) for i in range(6) for j in range(6) if i != j), reverse=True)
    assert [suspect.similarity for suspect in found] == expected
    assert {suspect.probability for suspect in found} == {None}


def test_only_neighbours_are_read_and_the_list_is_cut() -> None:
    similarity = torch.eye(5) + 0.5 * torch.eye(5).roll(1, 1)
    found = find_suspects(TableJudge(torch.ones(5, 5), similarity), range(5), range(5), candidates=2, limit=3)  # type: ignore[arg-type]
    assert [(s.image, s.caption) for s in found] == [(0, 1), (1, 2), (2, 3)]
