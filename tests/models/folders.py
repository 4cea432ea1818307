"""Tiny models of several libraries in folders, each with what captions and images need to reach it."""

from collections.abc import Callable
from pathlib import Path

from transformers import CLIPImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from tests.models.dual import tiny_open_clip
from tests.models.dual.families import FAMILIES
from tests.models.dual.tiny_hub import clip, seeded, siglip, vit_and_bert
from tests.models.tiny_albef import tiny_model
from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.tokens import train_wordpiece
from truepair.data.transforms import TransformConfig

CAPTIONS = [f"a {size} {colour} square" for size in ("small", "large") for colour in ("red", "green", "blue")]


def tokenizer(length: int) -> PreTrainedTokenizerBase:
    trained = train_wordpiece(CAPTIONS, 40, min_frequency=1)
    trained.model_max_length = length
    return trained


def save_hub(family: Callable[[], PreTrainedModel], folder: Path) -> Path:
    """A folder of transformers."""
    seeded(family).save_pretrained(folder)
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(folder)
    tokenizer(12).save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    return save_hub(clip, folder)


def save_siglip(folder: Path) -> Path:
    return save_hub(siglip, folder)


def save_vit_and_bert(folder: Path) -> Path:
    return save_hub(vit_and_bert, folder)


def save_albef(folder: Path, seed: int = 0) -> Path:
    """A folder of ours."""
    tiny_model(seed).save_pretrained(folder)
    own = OwnPreprocessing(tokenizer(20), 12, add_sep=False, normalise=True, transform=TransformConfig(size=16))
    own.save(folder)
    return folder


def save_siglip_2(folder: Path) -> Path:
    """Reads patches and their places in place of pixels."""
    return next(family for family in FAMILIES if family.name == "siglip_2").save(folder)


def save_open_clip(folder: Path) -> Path:
    tiny_open_clip.made(tiny_open_clip.clip(folder), folder)
    return folder


SAVERS = [save_clip, save_siglip, save_vit_and_bert, save_albef, save_open_clip]
"""Those that read pixels [B, 3, H, W]."""
