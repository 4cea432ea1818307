from dataclasses import replace

import numpy as np
import pytest

from tests.mining.signals.galleries import encoded_of, gallery_of
from truepair.mining import proposals
from truepair.mining.gallery import Lists
from truepair.mining.prior import Prior
from truepair.mining.proposals import propose


def test_of_a_small_gallery_all_undeclared_cells_are_proposed() -> None:
    encoded = encoded_of(gallery_of(12, 3, 0), 0)
    found = propose(encoded)
    gallery = encoded.gallery
    assert len(found.pictures) == len(gallery) * len(gallery.texts) - len(gallery.declared)
    assert not gallery.is_declared(found.pictures, found.captions).any()


def test_neighbours_propose_from_every_side_and_every_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encoded_of(gallery_of(60, 3, 1), 1, width=12)
    gallery = encoded.gallery
    monkeypatch.setattr(proposals, "_ALL", 0)
    monkeypatch.setattr(proposals, "_ROWS", 7)
    found = propose(encoded)
    cells = set(zip(found.pictures.tolist(), found.captions.tolist(), strict=True))
    assert len(cells) == len(found.pictures) < len(gallery) * len(gallery.texts)
    assert not gallery.is_declared(found.pictures, found.captions).any()
    assert set(found.recall.values()) == {1.0}
    across = encoded.across
    images = encoded.centred_images
    assert across is not None and images is not None
    for scores, cell in (
        (encoded.captions @ encoded.captions.T, lambda one, other: [(p, one) for p in gallery.pictures[other]]),
        (images @ images.T, lambda one, other: [(one, c) for c in gallery.captions[other]]),
        (across[0] @ across[1].T, lambda one, other: [(one, other)]),
        (across[1] @ across[0].T, lambda one, other: [(other, one)]),
    ):
        for one, other in enumerate(scores.argsort(dim=1, descending=True)[:, :10].tolist()):
            for near in other:
                for picture, caption in cell(one, near):
                    declared = gallery.is_declared(np.array([picture]), np.array([caption]))[0]
                    assert declared or (int(picture), int(caption)) in cells


def test_lists_are_padded() -> None:
    lists = Lists(np.array([0, 2, 2, 5]), np.array([7, 8, 1, 2, 3]))
    values, there = lists.padded(np.array([2, 1, 0]))
    assert values.tolist() == [[1, 2, 3], [0, 0, 0], [7, 8, 0]]
    assert there.sum(axis=1).tolist() == [3, 0, 2]
    assert lists.padded(np.array([2]), 2)[0].tolist() == [[1, 2]]
    assert lists.padded(np.array([1]))[1].tolist() == [[False]]


def test_the_prior_is_a_weighted_mean_of_standardised_signals() -> None:
    prior = Prior("made up", {"a/x": 3.0, "b/y": -1.0, "c/z": 5.0}, slope=2.0, constant=-1.0)
    signals = np.array([[1.0, 4.0, 0.0], [3.0, np.nan, 9.0], [5.0, 8.0, 2.0]], np.float32)
    found = prior.log_odds(signals, ["a/x", "b/y", "other/w"])
    z = np.array([-1.2247, 0.0, 1.2247]), np.array([-1.0, 0.0, 1.0])  # the one that says nothing is average
    assert found == pytest.approx(-1.0 + 2.0 * (3 * z[0] - z[1]) / 4, abs=1e-3)
    assert prior.log_odds(signals, ["other/u", "other/v", "other/w"]).tolist() == [-1.0] * 3
    assert prior.fingerprint == replace(prior, provenance="told otherwise").fingerprint
    assert prior.fingerprint != replace(prior, slope=1.0).fingerprint
