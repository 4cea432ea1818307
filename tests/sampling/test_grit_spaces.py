import numpy as np
import torch

from tests.sampling.pairs import make_features
from truepair.sampling.grit import cut_spaces, grit_order, walk_spaces
from truepair.sampling.hardness import HardnessSchedule
from truepair.sampling.known import KnownMatches


def test_positions_are_cut_in_order() -> None:
    assert [space.tolist() for space in cut_spaces(np.arange(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert cut_spaces(np.arange(0), 3) == []


def test_each_space_is_walked_from_its_start() -> None:
    image, text = make_features(50)
    spaces = cut_spaces(np.random.default_rng(0).permutation(50), 12)
    starts = [3, 0, 11, 5, 1]
    keys = np.arange(1000) // 3
    samples = np.random.default_rng(1).permutation(1000)[:50]
    for known in (None, KnownMatches(keys)):
        walks = walk_spaces(
            spaces,
            starts,
            image,
            text,
            samples=samples,
            group_size=4,
            hardness=HardnessSchedule(),
            epoch=1,
            known=known,
        )
        for space, start, walk in zip(spaces, starts, walks, strict=True):
            forbidden = None if known is None else torch.from_numpy(known.matrix(samples[space]))
            order = grit_order(image[space], text[space], start=start, forbidden=forbidden, batch_size=4)
            assert walk.tolist() == space[order.numpy()].tolist()
