import numpy as np
import pytest
import torch

from tests.data.test_table import table_of
from tests.mining.signals.galleries import encoded_of, gallery_of, undeclared
from truepair.errors import ConfigError
from truepair.mining.gallery import Gallery
from truepair.mining.graph import PairGraph, agreement_of
from truepair.mining.signals.families import (
    Family,
    agreement_family,
    compute_signals,
    picture_graph,
    usual_families,
)


def test_signals_of_cells_do_not_hang_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encoded_of(gallery_of(40, 3, 0), 0)
    families, lacking = usual_families(encoded)
    expected = ["captions", "learned_captions", "hubness", "words", "pictures", "across", "nearby"]
    assert [family.name for family in families] == expected
    assert len(lacking) == 3 and lacking[0].startswith("no signals 'alignment'")
    assert any("in English" in line for line in lacking) and any("share a caption" in line for line in lacking)
    pictures, captions = undeclared(encoded.gallery)
    whole, names = compute_signals(pictures, captions, families)
    assert whole.shape == (len(pictures), len(names)) and names[0] == "captions/best"
    monkeypatch.setattr("truepair.mining.signals.families._CELLS", 7)
    some = np.random.default_rng(0).permutation(len(pictures))[:50]
    part, _ = compute_signals(pictures[some], captions[some], families)
    np.testing.assert_allclose(part, whole[some], atol=1e-5)


def test_what_is_computed_once_for_pictures_with_the_same_captions_is_as_if_each_were_alone() -> None:
    own = [["a red dog runs", "two cats"], ["two cats", "a red dog runs"], ["a man"], ["a man"], ["a boy", "two cats"]]
    encoded = encoded_of(Gallery.of_table(table_of(own * 2)), 0)  # each list of captions is that of two or four
    families, _ = usual_families(encoded, ["captions", "hubness", "words", "kinds"])
    assert [family.name for family in families] == ["captions", "hubness", "words", "kinds"]
    cells = undeclared(encoded.gallery)
    distinct = encoded.gallery.distinct(*cells)
    assert len(distinct[0]) < len(cells[0])
    found, _ = compute_signals(*cells, families)
    for place in range(len(cells[0])):
        alone, _ = compute_signals(*(part[place : place + 1] for part in cells), families)
        np.testing.assert_allclose(found[place], alone[0], atol=1e-6)


def test_a_gallery_with_one_caption_a_picture_has_its_signals() -> None:
    encoded = encoded_of(gallery_of(30, 1, 0), 0)
    families, lacking = usual_families(encoded)
    assert [family.name for family in families] == ["captions", "hubness", "words", "pictures", "across", "nearby"]
    assert any("'learned_captions': hardly any" in line for line in lacking)
    found, names = compute_signals(*undeclared(encoded.gallery), families)
    assert names[:3] == ("captions/best", "hubness/best pictures", "hubness/best captions")
    assert np.isfinite(found).all()


def test_a_family_of_ones_own_stands_beside_the_others() -> None:
    encoded = encoded_of(gallery_of(6, 2, 0), 0)
    own = Family("asked", ("double",), lambda pictures, captions: torch.from_numpy(pictures + 2.0 * captions)[:, None])
    found, names = compute_signals(np.array([1, 3]), np.array([0, 2]), [*usual_families(encoded, ["captions"])[0], own])
    assert names[-1] == "asked/double" and found[:, -1].tolist() == [1.0, 7.0]
    with pytest.raises(ConfigError, match="did you mean 'hubness'"):
        usual_families(encoded, ["hubnes"])


def test_partners_are_the_likeliest_cells_of_two_pictures_and_say_what_the_graph_says() -> None:
    encoded = encoded_of(gallery_of(9, 2, 3), 3)
    gallery = encoded.gallery
    pictures, captions = undeclared(gallery)
    odds = np.random.default_rng(0).normal(size=len(pictures)).astype(np.float32)
    kept = odds > -0.5
    graph = picture_graph(encoded, pictures[kept], captions[kept], odds[kept])
    expected: dict[tuple[int, int], float] = {}
    for picture, caption, value in zip(pictures[kept], captions[kept], odds[kept], strict=True):
        for owner in gallery.pictures[caption]:
            for cell in ((picture, owner), (owner, picture)):
                expected[cell] = max(expected.get(cell, -9.0), float(value))
    for picture in range(len(gallery)):
        for other in range(len(gallery)):
            if picture != other and set(gallery.captions[picture]) & set(gallery.captions[other]):
                expected[picture, other] = 8.0
    assert 8.0 in expected.values()
    found = zip(graph.rows.tolist(), graph.columns.tolist(), graph.log_odds.tolist(), strict=True)
    assert {(row, column): pytest.approx(value) for row, column, value in found} == expected
    evidence = agreement_of(graph)[:, 1:]
    edges = {cell: place for place, cell in enumerate(zip(graph.rows.tolist(), graph.columns.tolist(), strict=True))}
    says = agreement_family(encoded, graph).compute(pictures, captions)
    for row, picture, caption in zip(says, pictures.tolist(), captions.tolist(), strict=True):
        partners = [edges[picture, owner] for owner in gallery.pictures[caption].tolist() if (picture, owner) in edges]
        if not partners:
            assert bool(row.isnan().all())
        else:
            best = max(partners, key=lambda place: float(graph.log_odds[place]))
            assert torch.equal(row, evidence[best])


def test_no_partner_at_all_says_nothing() -> None:
    encoded = encoded_of(gallery_of(4, 1, 0, shared=0), 0)
    nothing = torch.empty(0, dtype=torch.int64)
    graph = PairGraph.of_proposals(4, nothing, nothing, torch.empty(0), torch.empty(0, dtype=torch.bool))
    found = agreement_family(encoded, graph).compute(*undeclared(encoded.gallery))
    assert bool(found.isnan().all())
