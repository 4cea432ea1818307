import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import config
from numpy.typing import NDArray
from PIL import Image

from truepair.data import pixels


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of Arrow files for one test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", folder)
    return folder


def pillow_decodes(encoded: bytes, mode: str) -> NDArray[np.uint8]:
    """Stands in for simplejpeg, and fails as it does."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return pixels.as_pixels(image.convert(mode[:3])).numpy()
    except OSError as error:
        raise ValueError("Premature end of JPEG file") from error


@pytest.fixture(params=["Pillow", "a stand-in", "simplejpeg"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes in bytes of what the fast decoder was given."""
    given: list[int] = []
    decode: Callable[[bytes, str], NDArray[np.uint8]] = pillow_decodes
    if request.param == "simplejpeg":
        decode = pytest.importorskip("simplejpeg").decode_jpeg

    def counted(encoded: bytes, mode: str) -> NDArray[np.uint8]:
        given.append(len(encoded))
        return decode(encoded, mode)

    request.node.fast = request.param != "Pillow"
    found = pixels._Decoder(request.param, counted if request.node.fast else None)
    monkeypatch.setattr(pixels, "_decoder", lambda: found)
    return given
