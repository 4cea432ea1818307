"""Both towers of a model as ONNX files, with what captions and images need to reach them and an example in NumPy."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim

from truepair.data.preprocessing import OwnPreprocessing, Preprocessing
from truepair.data.tokens import padded
from truepair.data.transforms import normalisation
from truepair.errors import CheckpointError, ConfigError
from truepair.files import writing_folder
from truepair.models.dual.base import DualEncoder, require_one_vector
from truepair.models.dual.hub_preprocessing import HubPreprocessing
from truepair.models.open import OpenedModel

IMAGE_FILE, TEXT_FILE = "image.onnx", "text.onnx"

TOLERANCE = 1e-4
"""Largest difference of a number of a vector that an export may make."""

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

_ONE_FILE = 1_500_000_000
"""Bytes of weights above which they lie in a file of their own: an ONNX file holds less than 2 GiB."""

_TEXTS = ["a dog", "two people ride on horses along a beach in the evening", "snow", "a red car", "a cat on a chair"]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        difference: largest difference of a number of a vector to the model's own, over batches of several sizes.
    """

    folder: Path
    difference: float


def export_onnx(opened: OpenedModel, folder: Path, *, name: str) -> Exported:
    """Write both towers, and compare what onnxruntime makes of them with the model itself.

    The folder gets ``image.onnx`` (``pixel_values`` [B, 3, H, W] to ``features`` [B, E]), ``text.onnx`` (``input_ids``
    and ``attention_mask`` [B, L] to ``features`` [B, E]), the files of tokenizer and image processor, and a README with
    an example. Features are L2-normalised. B and L are free; H and W are the model's.

    Args:
        opened: the model.
        folder: where; a former export there is replaced.
        name: of the model, for the README.

    Raises:
        ConfigError: the packages of ``truepair[onnx]`` are missing, the model has several vectors an image, or the
            folder holds something else.
        CheckpointError: the model cannot be exported, or the export computes something else.
    """
    require_one_vector(opened.model, "an export")
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise ConfigError(f'export needs {", ".join(missing)}: pip install "truepair[onnx]"')
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / IMAGE_FILE).is_file())):
        raise ConfigError(f"{folder} is there, and is no former export; give another folder")
    model = opened.model.cpu().eval()
    inputs = _Inputs(opened.preprocessing)
    with writing_folder(folder) as aside:
        batch, length = Dim("batch"), Dim("length")
        _write(_ImageTower(model), aside / IMAGE_FILE, {"pixel_values": inputs.pixels(2)}, {0: batch})
        ids, mask = inputs.tokens(2)
        _write(_TextTower(model), aside / TEXT_FILE, {"input_ids": ids, "attention_mask": mask}, {0: batch, 1: length})
        opened.preprocessing.save(aside)
        (aside / "README.md").write_text(_readme(opened, name), encoding="utf-8")
        difference = _difference(model, inputs, aside)
        if not difference <= TOLERANCE:
            raise CheckpointError(f"the export of {name} differs by {difference:.1g} from the model; please report it")
    return Exported(folder, difference)


class _ImageTower(nn.Module):
    """Pixels [B, 3, H, W] to L2-normalised features [B, E]."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] to features [B, E]."""
        return self.model.encode_images(pixel_values).features


class _TextTower(nn.Module):
    """Token ids and mask [B, L] to L2-normalised features [B, E]."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask, both [B, L], to features [B, E]."""
        return self.model.encode_texts(input_ids, attention_mask).features


class _Inputs:
    """Inputs to export with and to compare with."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.transform = preprocessing.images()
        self.tokenization = preprocessing.tokenization

    def pixels(self, count: int) -> Tensor:
        """Pictures of noise [B, 3, H, W]."""
        noise = np.random.default_rng(0)
        pictures = [Image.fromarray(noise.integers(0, 256, (48, 64, 3), np.uint8)) for _ in range(count)]
        return torch.stack([self.transform(picture) for picture in pictures])

    def tokens(self, count: int) -> tuple[Tensor, Tensor]:
        """Ids and mask of the first texts, both [B, L]."""
        return padded(self.tokenization(_TEXTS[:count]), self.tokenization.padding)


def _write(tower: nn.Module, path: Path, inputs: dict[str, Tensor], free: dict[int, Any]) -> None:
    """Export a tower.

    Raises:
        CheckpointError: torch cannot.
    """
    size = sum(weight.numel() * weight.element_size() for weight in tower.parameters())
    try:
        with _quiet():
            program = torch.onnx.export(
                tower.eval(),
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=["features"],
                dynamic_shapes=dict.fromkeys(inputs, free),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            for node in program.model.graph:  # lines of the source with their paths, nine tenths of a small file
                node.metadata_props.clear()
            program.save(path, external_data=size > _ONE_FILE)
    except Exception as error:  # torch raises many kinds; each says that the model cannot be traced
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"torch could not make {path.name} of this model ({reason}); please report it") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from warning of what it does."""
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)


@torch.inference_mode()
def _difference(model: DualEncoder, inputs: _Inputs, folder: Path) -> float:
    """The largest difference between the files' features and the model's, one at a time and several at once."""
    from onnxruntime import InferenceSession

    sessions = [InferenceSession(folder / name, providers=["CPUExecutionProvider"]) for name in (IMAGE_FILE, TEXT_FILE)]
    largest = 0.0
    for count in (1, len(_TEXTS)):
        pixels, (ids, mask) = inputs.pixels(count), inputs.tokens(count)
        (images,) = sessions[0].run(None, {"pixel_values": pixels.numpy()})
        (texts,) = sessions[1].run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        for found, expected in ((images, model.encode_images(pixels)), (texts, model.encode_texts(ids, mask))):
            largest = max(largest, float(np.abs(found - expected.features.numpy()).max()))
    return largest


def _readme(opened: OpenedModel, name: str) -> str:
    """What the files are, and a program that uses them."""
    reading = _reading(opened.preprocessing)
    example = "" if reading is None else _EXAMPLE.format(reading=reading)
    return _README.format(
        name=name,
        width=opened.model.embed_dim,
        length=opened.preprocessing.max_length,
        scale=1 / float(opened.model.temperature.detach()),
        bias="" if opened.model.bias is None else f" plus {float(opened.model.bias.detach()):.6g}",
        settings=json.dumps(opened.preprocessing.image_settings(), indent=1),
        example=example,
    )


def _reading(preprocessing: Preprocessing) -> str | None:
    """The part of the program that makes inputs of a picture and of texts; None where only the model's library can."""
    if isinstance(preprocessing, HubPreprocessing):
        return _HUB.format(length=preprocessing.max_length)
    if not isinstance(preprocessing, OwnPreprocessing):
        return None
    config = preprocessing.transform
    mean, std = normalisation(config, preprocessing.statistics)
    return _OWN.format(
        resize=(_SQUASH if config.evaluation_resize == "squash" else _CROP).format(
            size=config.size, resample=config.interpolation.upper()
        ),
        mean=list(mean),
        std=list(std),
        normalise=_NORMALISE if preprocessing.normalise else "",
        end=" + [tokenizer.sep_token_id]" if preprocessing.add_sep else "",
        room=preprocessing.max_length - 1 - preprocessing.add_sep,
    )


_README = """# {name}, as ONNX

- `image.onnx`: `pixel_values` float32 [B, 3, H, W] to `features` float32 [B, {width}]
- `text.onnx`: `input_ids` and `attention_mask` int64 [B, L] to `features` float32 [B, {width}]; L is at most {length}

Features are L2-normalised: their product is the cosine similarity. The logit of a pair is {scale:.6g} times that{bias}.
Images are prepared like this:

```json
{settings}
```
{example}"""

_EXAMPLE = """
```python
import numpy as np
import onnxruntime
from PIL import Image
from transformers import AutoTokenizer

{reading}

image = onnxruntime.InferenceSession("image.onnx")
text = onnxruntime.InferenceSession("text.onnx")


def encode_image(path):
    return image.run(None, {{"pixel_values": pixels(Image.open(path).convert("RGB"))}})[0]  # [1, E]


def encode_texts(captions):
    ids, mask = tokens(captions)
    return text.run(None, {{"input_ids": ids, "attention_mask": mask}})[0]  # [B, E]


# encode_image("photo.jpg") @ encode_texts(["a dog", "a cat"]).T: the similarities [1, 2]
```
"""

_HUB = """from transformers import AutoImageProcessor

tokenizer = AutoTokenizer.from_pretrained(".", trust_remote_code=False)
processor = AutoImageProcessor.from_pretrained(".", trust_remote_code=False)


def pixels(picture):
    return processor(images=picture, return_tensors="np")["pixel_values"].astype(np.float32)


def tokens(captions):
    batch = tokenizer(captions, truncation=True, max_length={length}, padding=True)
    mask = np.array(batch.get("attention_mask") or np.ones_like(batch["input_ids"]), np.int64)
    return np.array(batch["input_ids"], np.int64), mask"""

_OWN = """import re

tokenizer = AutoTokenizer.from_pretrained(".", trust_remote_code=False)
mean, std = np.array({mean}), np.array({std})


def pixels(picture):
{resize}
    scaled = (np.asarray(picture) / 255 - mean) / std  # [H, W, 3]
    return scaled.transpose(2, 0, 1)[None].astype(np.float32)  # [1, 3, H, W]


def ids_of(caption):
{normalise}    words = tokenizer(caption, add_special_tokens=False)["input_ids"]
    return [tokenizer.cls_token_id] + words[:{room}]{end}


def tokens(captions):
    rows = [ids_of(caption) for caption in captions]
    length = max(map(len, rows))
    ids = np.array([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows], np.int64)
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], np.int64)
    return ids, mask"""

_SQUASH = """    picture = picture.resize(({size}, {size}), Image.Resampling.{resample})"""

_CROP = """    width, height = picture.size
    short = min(width, height)
    width, height = int({size} * width / short), int({size} * height / short)
    picture = picture.resize((width, height), Image.Resampling.{resample})
    left, top = round((width - {size}) / 2), round((height - {size}) / 2)
    picture = picture.crop((left, top, left + {size}, top + {size}))"""

_NORMALISE = """    caption = re.sub(r"[.'`]", "", caption.lower())
    caption = " ".join(re.sub(r'[!"(),\\-/:;?\\[\\\\\\]_{}]', " ", caption).split())
"""
