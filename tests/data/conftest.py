import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from datasets import config
from PIL import Image
from torch import Tensor

from truepair.data import pixels


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of Arrow files for one test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", folder)
    return folder


def pillow_decodes(encoded: bytes, part: pixels.Part) -> Tensor:
    """Stands in for a fast decoder, and fails as one does."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return part.of(pixels.as_pixels(image.convert("RGB")))
    except OSError as error:
        raise RuntimeError("Image is incomplete or truncated") from error


@pytest.fixture(params=["Pillow", "a stand-in", "simplejpeg", "torchcodec"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes in bytes of what the fast decoder was given."""
    given: list[int] = []
    read: Callable[[bytes, pixels.Part], Tensor] = pillow_decodes
    if request.param in pixels._FAST:
        module, part = pixels._FAST[request.param]
        read = partial(part, pytest.importorskip(module).decode_jpeg)

    def counted(encoded: bytes, part: pixels.Part) -> Tensor:
        given.append(len(encoded))
        return read(encoded, part)

    request.node.fast = request.param != "Pillow"
    found = pixels._Decoder(request.param, counted if request.node.fast else None)
    monkeypatch.setattr(pixels, "_decoder", lambda: found)
    return given
