"""Vectors of any model: those of the model itself, whatever the batches."""

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.folders import CAPTIONS, SAVERS, save_albef, save_clip, save_siglip_2
from truepair import Retriever
from truepair.data.images import BadImageError
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.models.open import open_model


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    return Retriever.load(save_clip(tmp_path_factory.mktemp("clip")), device="cpu")


@pytest.mark.parametrize("save", [*SAVERS, save_siglip_2])
def test_vectors_are_the_features_of_the_model(save: Callable[[Path], Path], squares: Path, tmp_path: Path) -> None:
    folder = save(tmp_path)
    retriever, opened = Retriever.load(folder, device="cpu"), open_model(folder)
    pictures = sorted(squares.glob("*.png"))[:5]
    transform, model = opened.preprocessing.images(), opened.model.eval()
    for path, vector in zip(pictures, retriever.encode_images(pictures, batch_size=2), strict=True):
        with torch.inference_mode():
            expected = model.encode_images(transform(Image.open(path).convert("RGB"))[None]).features[0]
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-6)
    texts = ["a red square", "square", *CAPTIONS]  # of several lengths: sorted for encoding, and arranged again
    vectors = retriever.encode_texts(texts, batch_size=3)
    for text, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            expected = model.encode_texts(*opened.preprocessing.collator().encode([text])).features[0]
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-5)
    assert vectors.dtype == np.float32 and vectors.shape == (8, retriever.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_pictures_may_be_paths_images_and_cells(retriever: Retriever, squares: Path) -> None:
    path = squares / "red-large-0.png"
    with Image.open(path) as opened:
        forms = [path, str(path), opened.copy(), {"path": str(path)}, {"bytes": path.read_bytes()}]
    vectors = retriever.encode_images(forms, workers=2, batch_size=2)
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], len(forms), axis=0), rtol=0, atol=1e-6)
    assert retriever.encode_images([]).shape == (0, retriever.embed_dim)
    assert retriever.encode_texts([]).shape == (0, retriever.embed_dim)


def test_unreadable_pictures_are_named(retriever: Retriever, squares: Path, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("nothing")
    bad = [tmp_path / "no.png", *(tmp_path / f"gone-{number}.png" for number in range(6))]
    with pytest.raises(BadImageError, match=r"7 of 8 pictures cannot be read: image .*no.png is not an image") as error:
        retriever.encode_images([squares / "red-large-0.png", *bad], batch_size=3)
    assert "gone-3.png" in str(error.value) and "gone-4.png" not in str(error.value)
    assert str(error.value).endswith(" and 2 more")


def test_search_finds_what_a_loop_finds(retriever: Retriever, squares: Path) -> None:
    pictures = sorted(squares.glob("*.png"))
    vectors = retriever.encode_images(pictures)
    index = faiss.IndexFlatIP(retriever.embed_dim)
    index.add(vectors)
    with Image.open(pictures[3]) as picture:
        queries = ["a red square", pictures[3], picture.copy(), vectors[3]]
    for query in queries:
        asked = (
            retriever.encode_texts([query])[0]
            if isinstance(query, str)
            else query
            if isinstance(query, np.ndarray)
            else retriever.encode_images([query])[0]
        )
        scores = [float(sum(a * b for a, b in zip(row, asked, strict=True))) for row in vectors]
        best = sorted(range(len(scores)), key=lambda place: -scores[place])
        hits = retriever.search(query, vectors, k=5)
        np.testing.assert_allclose(hits.scores, [scores[place] for place in best[:5]], rtol=0, atol=1e-5)
        assert len(hits) == 5 and (np.diff(hits.scores) <= 0).all()
        np.testing.assert_allclose(retriever.search(query, index, 5).scores, hits.scores, rtol=0, atol=1e-5)
    assert len(retriever.search("a", vectors[:2], 10)) == len(retriever.search("a", index, 100)) - 46 == 2
    assert len(retriever.search("a", vectors[:0])) == 0
    half = retriever.search("a red square", vectors.astype(np.float16), 3)
    np.testing.assert_allclose(half.scores, retriever.search("a red square", vectors, 3).scores, atol=1e-3)


def test_of_equal_scores_the_first_come_first(retriever: Retriever) -> None:
    vectors = np.zeros((200, retriever.embed_dim), np.float32)
    vectors[:, 0] = 1
    assert retriever.search(vectors[0], vectors, 4).places.tolist() == [0, 1, 2, 3]


def test_cut_texts_are_told(retriever: Retriever) -> None:
    longest = retriever.preprocessing.max_length  # 12: ten words between the special tokens
    texts = [" ".join(["a"] * words) for words in (longest - 3, longest - 2, longest - 1, 40)]
    assert retriever.cut_texts(texts) == [2, 3]
    assert retriever.cut_texts([]) == []


def test_fingerprints_tell_models_and_preprocessing_apart(tmp_path: Path) -> None:
    one = Retriever.load(save_albef(tmp_path / "one"))
    assert one.fingerprint == Retriever.load(save_albef(tmp_path / "two")).fingerprint
    assert one.fingerprint != Retriever.load(save_albef(tmp_path / "three", seed=1)).fingerprint
    settings = tmp_path / "two" / "preprocessing.json"
    settings.write_text(settings.read_text().replace('"max_length": 12', '"max_length": 11'))
    assert one.fingerprint != Retriever.load(tmp_path / "two").fingerprint


def test_mistakes_are_named(retriever: Retriever, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="k is 0; give 1 or more"):
        retriever.search("a", np.zeros((1, 8), np.float32), 0)
    with pytest.raises(DataError, match=r"shape \[1, 5\], and the query has 8 numbers; they are of another model"):
        retriever.search("a", np.zeros((1, 5), np.float32))
    with pytest.raises(CheckpointError, match=r"no model in .*nowhere: there is no such folder; check the path"):
        Retriever.load(tmp_path / "nowhere")
