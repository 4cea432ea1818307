import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
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


def pillow_decodes(data: Tensor) -> Tensor:
    """Stands in for torchcodec, uint8 [3, H, W] with the channels of a pixel side by side, and fails as it does."""
    try:
        with Image.open(io.BytesIO(data.numpy().tobytes())) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except OSError as error:
        raise RuntimeError("Image is incomplete or truncated") from error


@pytest.fixture(params=["Pillow", "a stand-in", "torchcodec"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes in bytes of what the fast decoder was given."""
    given: list[int] = []
    decode: Callable[[Tensor], Tensor] = pillow_decodes
    if request.param == "torchcodec":
        decode = pytest.importorskip("torchcodec.decoders").decode_jpeg

    def counted(data: Tensor) -> Tensor:
        given.append(len(data))
        return decode(data)

    monkeypatch.setattr(pixels, "_torchcodec", lambda: "" if request.param == "Pillow" else counted)
    request.node.fast = request.param != "Pillow"
    return given
