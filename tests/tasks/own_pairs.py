"""Pairs and a model as a user has them: a list with one caption a line, and a CLIP folder of transformers."""

import csv
import json
import shutil
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedModel, PreTrainedTokenizerBase

from truepair.data.tokens import train_wordpiece

WIDTHS = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CAPTIONS = ["a small red square", "green square, middle", "a large blue square", "white square, small"]


def write_list(squares: Path, file: Path) -> Path:
    """The squares as a CSV beside copies of the pictures, without groups; a quarter of the training ones validate."""
    rows = [json.loads(line) for line in (squares / "pairs.jsonl").read_text().splitlines()]
    with file.open("w", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(["image", "caption", "split"])
        for number, row in enumerate(rows):
            split = "val" if row["split"] == "train" and number % 4 == 0 else row["split"]
            shutil.copy(squares / row["image"], file.parent)
            table.writerow([row["image"], row["captions"][0], split])
    return file


def save_clip(folder: Path, seed: int = 0) -> Path:
    """A small CLIP with its processor and tokenizer, as on the hub; without dropout, as CLIP is."""
    tokenizer = train_wordpiece(CAPTIONS, 60, min_frequency=1)
    tokenizer.model_max_length = 12
    special = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = {**WIDTHS, "vocab_size": len(tokenizer), "max_position_embeddings": 12, **special}
    vision = {**WIDTHS, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    return save(folder, model, tokenizer)


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Write a model with an image processor of 16 px."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder
