"""One CLIP, one folder of pictures, and three programs that train it: ours, open_clip's and transformers' Trainer.

Each runs as its users run it, in float32 without loading processes, and tells `Clock` of every finished step. All have
the same weights, pairs, batch size, random resized crop and AdamW with the same settings; each has its own order of
pairs, crops, optimizer implementation, log and whatever else it does in a step. Captions fill the context: of shorter
ones, open_clip would compute the padding too. Each imports its own libraries, so that a process starts with no more.
"""

import csv
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

LEARNING_RATE, DECAY, BETAS, CLIP_NORM = 1e-4, 0.1, (0.9, 0.98), 1.0
CROP = (0.9, 1.0)  # share of the area; open_clip's default
LOG_EVERY = 10  # steps
WORDS = ["red", "dog", "boat", "two", "snow", "tree", "old", "car", "runs", "under", "near", "white", "man", "child"]


@dataclass(frozen=True)
class Size:
    """How large the CLIP is."""

    pixels: int
    patch: int
    image: tuple[int, int]  # width and layers
    text: tuple[int, int]
    context: int
    embedding: int


SIZES = {
    "tiny": Size(64, 16, (128, 3), (128, 2), 16, 64),
    "small": Size(112, 16, (384, 6), (256, 4), 32, 256),
    "vit-s-16": Size(224, 16, (384, 12), (384, 12), 77, 384),  # open_clip's ViT-S-16, with another vocabulary
}
HEAD = 64  # width of an attention head


@dataclass
class Clock:
    """When each optimizer step was over; ends the run after some.

    Args:
        steps: How many the run takes.
    """

    steps: int
    cpu: list[float] = field(default_factory=list)  # seconds of CPU time of this process
    wall: list[float] = field(default_factory=list)  # seconds since 1970

    def tick(self, *_: Any) -> None:
        """Note that a step is over."""
        self.cpu.append(time.process_time())
        self.wall.append(time.time())
        if len(self.cpu) == self.steps:
            raise _Enough


class _Enough(Exception):  # noqa: N818
    """Ends a run."""


@dataclass(frozen=True)
class Setting:
    """What is trained on what.

    Attributes:
        folder: Of the pictures, the lists and the model.
        size: Of the model.
        batch: Pairs of a batch.
        ledger: Verdicts that our side reads; None for none.
        cache: Where our side keeps its tables; None for beside the pictures.
    """

    folder: Path
    size: Size
    batch: int
    ledger: Path | None = None
    cache: Path | None = None


def write_pictures(folder: Path, count: int, context: int) -> None:
    """Blurred JPEGs of 500 x 375 with some noise, and captions of as many words as the context takes, as CSV."""
    draw = np.random.default_rng(0)
    with (folder / "pairs.csv").open("w", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(["image", "caption"])
        for number in range(count):
            rough = Image.fromarray(draw.integers(0, 255, (6, 8, 3), dtype=np.uint8))
            smooth = np.asarray(rough.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
            noisy = (smooth + draw.integers(-12, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{number:05d}.jpg", quality=90)
            table.writerow([f"{number:05d}.jpg", " ".join(draw.choice(WORDS, context - 2))])


def write_model(folder: Path, size: Size) -> None:
    """A CLIP of transformers with weights at random, its processor, and a tokenizer of the words."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from truepair.data.tokens import train_wordpiece

    tokenizer = train_wordpiece(WORDS, 100, min_frequency=1)
    tokenizer.model_max_length = size.context
    special = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    vision = {**_widths(*size.image), "image_size": size.pixels, "patch_size": size.patch}
    text = {**_widths(*size.text), **special, "vocab_size": len(tokenizer), "max_position_embeddings": size.context}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=size.embedding)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    square = {"height": size.pixels, "width": size.pixels}
    CLIPImageProcessor(size={"shortest_edge": size.pixels}, crop_size=square).save_pretrained(folder)


def _widths(width: int, layers: int) -> dict[str, int]:
    heads = width // HEAD
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def truepair(setting: Setting, clock: Clock) -> None:
    """`truepair train clip pairs.csv`, without saving."""
    from truepair.cli.arguments import find_recipe, read_recipe
    from truepair.methods.recipe import PretrainRecipe
    from truepair.methods.student import build_student
    from truepair.tasks.pretraining import pretrain

    folder = setting.folder
    source = f"{{source: {folder / 'pairs.csv'}, cache_dir: {setting.cache or folder / 'cache'}}}"
    given = {
        "data.sources": f"[{source}]",
        "data.transform.crop_scale": list(CROP),
        "model.checkpoint": folder / "model",
        "optimizer.learning_rate": LEARNING_RATE,
        "optimizer.weight_decay": DECAY,
        "optimizer.betas": list(BETAS),
        "optimizer.clip_norm": CLIP_NORM,
        "loop.batch_size": setting.batch,
        "loop.log_every": LOG_EVERY,
        "loop.epochs": 1,
        "loop.workers": 0,
        "loop.save": "false",
        "loop.checkpoint_minutes": 0,
        "loop.cpu": "true",
    }
    if setting.ledger is not None:
        recorded = f"{{detector: recorded, ledger: {setting.ledger}, action: relabel}}"
        same = "{detector: same_image, action: relabel}, {detector: same_caption, action: relabel}"
        given["relations.rules"] = f"[{same}, {recorded}]"
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    recipe = read_recipe(PretrainRecipe, [find_recipe("clip")], words, command="benchmark")

    def build(*inputs: Any) -> Any:
        """The student, which tells of the end of every step."""
        student = build_student(*inputs)
        clamp = student.model.clamp_temperature_

        def clamp_and_tick() -> None:
            clamp()
            clock.tick()

        student.model.clamp_temperature_ = clamp_and_tick  # type: ignore[method-assign]
        return student

    with suppress(_Enough):
        pretrain(recipe, folder / "run", lambda line: None, build=build)


def open_clip(setting: Setting, clock: Clock) -> None:
    """`open_clip_train.train.train_one_epoch` on a list as its `CsvDataset` reads it, whose module wants webdataset."""
    from open_clip.loss import ClipLoss
    from open_clip.transform import image_transform
    from open_clip_train.params import parse_args
    from open_clip_train.train import train_one_epoch
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer

    words = ["--batch-size", setting.batch, "--precision", "fp32", "--grad-clip-norm", CLIP_NORM]
    args = parse_args([str(word) for word in [*words, "--log-every-n-steps", LOG_EVERY]])
    args.device, args.rank, args.world_size, args.local_rank = "cpu", 0, 1, 0
    args.distributed, args.distill, args.wandb = False, False, False
    tokenizer = AutoTokenizer.from_pretrained(setting.folder / "model")
    length = setting.size.context

    def tokenize(captions: list[str]) -> Tensor:
        """Ids [T, L], padded to the context as open_clip does."""
        settings = {"padding": "max_length", "truncation": True, "max_length": length}
        return tokenizer(captions, **settings, return_tensors="pt").input_ids

    dataset = _Rows(
        setting.folder, image_transform(setting.size.pixels, is_train=True), lambda text: tokenize([text])[0]
    )
    loader: Any = DataLoader(dataset, setting.batch, shuffle=True, drop_last=True)
    loader.num_samples, loader.num_batches = len(dataset), len(loader)
    data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
    model = open_clip_model(setting)
    decayed = [weight for weight in model.parameters() if weight.ndim >= 2]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": DECAY}]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, BETAS, args.eps)
    begun = False

    def schedule(step: int) -> None:
        """The constant rate; it is called when a batch has been read, so the step before is over."""
        nonlocal begun
        if begun:
            clock.tick()
        begun = True

    with suppress(_Enough):
        train_one_epoch(model, data, ClipLoss(), 0, optimizer, None, schedule, None, args)


def trainer(setting: Setting, clock: Clock) -> None:
    """The Trainer of transformers with the loss of `CLIPModel`, as its example for CLIP has it."""
    from open_clip.transform import image_transform
    from transformers import AutoTokenizer, CLIPModel, Trainer, TrainerCallback, TrainingArguments

    class Tick(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    tokenizer = AutoTokenizer.from_pretrained(setting.folder / "model")

    def collate(rows: list[tuple[Tensor, str]]) -> dict[str, Any]:
        tokens = tokenizer([text for _, text in rows], padding=True, truncation=True, return_tensors="pt")
        ids, mask = tokens.input_ids, tokens.attention_mask
        pixels = torch.stack([image for image, _ in rows])
        return {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask, "return_loss": True}

    arguments = TrainingArguments(
        str(setting.folder / "trainer"),
        per_device_train_batch_size=setting.batch,
        learning_rate=LEARNING_RATE,
        weight_decay=DECAY,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=CLIP_NORM,
        logging_steps=LOG_EVERY,
        num_train_epochs=1,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    dataset = _Rows(setting.folder, image_transform(setting.size.pixels, is_train=True), str)
    model = CLIPModel.from_pretrained(setting.folder / "model")
    with suppress(_Enough):
        Trainer(model, arguments, collate, dataset, callbacks=[Tick()]).train()


PROGRAMS: dict[str, Callable[[Setting, Clock], None]] = {
    "truepair": truepair,
    "open_clip": open_clip,
    "trainer": trainer,
}


class _Rows(torch.utils.data.Dataset):
    """Pictures and captions of a list."""

    def __init__(self, folder: Path, pixels: Callable[[Any], Any], text: Callable[[str], Any]) -> None:
        with (folder / "pairs.csv").open(newline="") as opened:
            self.rows = [(str(folder / row["image"]), row["caption"]) for row in csv.DictReader(opened)]
        self.pixels = pixels
        self.text = text

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        path, caption = self.rows[row]
        return self.pixels(Image.open(path)), self.text(caption)


def open_clip_model(setting: Setting) -> nn.Module:
    """The model of the folder, as open_clip's own class with the same weights."""
    from open_clip.model import CLIP
    from safetensors.torch import load_file

    size = setting.size
    (width, layers), (text_width, text_layers) = size.image, size.text
    theirs = load_file(setting.folder / "model/model.safetensors")
    vocabulary = len(theirs["text_model.embeddings.token_embedding.weight"])
    text = {"context_length": size.context, "vocab_size": vocabulary, "pool_type": "eos", "eos_id": 3}
    model = CLIP(
        size.embedding,
        {"image_size": size.pixels, "patch_size": size.patch, "width": width, "layers": layers, "head_width": HEAD},
        {**text, "width": text_width, "layers": text_layers, "heads": text_width // HEAD},
        quick_gelu=True,
        output_dict=True,
    )
    model.load_state_dict(dict(_open_clip_weights(theirs, layers, text_layers)))
    return model


def _open_clip_weights(theirs: dict[str, Tensor], layers: int, text_layers: int) -> Iterator[tuple[str, Tensor]]:
    """The weights of a `CLIPModel` under open_clip's names."""
    yield "logit_scale", theirs["logit_scale"]
    yield "visual.class_embedding", theirs["vision_model.embeddings.class_embedding"]
    yield "visual.conv1.weight", theirs["vision_model.embeddings.patch_embedding.weight"]
    yield "visual.positional_embedding", theirs["vision_model.embeddings.position_embedding.weight"]
    yield "token_embedding.weight", theirs["text_model.embeddings.token_embedding.weight"]
    yield "positional_embedding", theirs["text_model.embeddings.position_embedding.weight"]
    yield "visual.proj", theirs["visual_projection.weight"].T
    yield "text_projection", theirs["text_projection.weight"].T
    names = {"vision_model.pre_layrnorm": "visual.ln_pre", "vision_model.post_layernorm": "visual.ln_post"}
    names |= {"text_model.final_layer_norm": "ln_final"}
    block = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    block |= {"self_attn.out_proj": "attn.out_proj"}
    towers = [("vision_model", "visual.transformer", layers), ("text_model", "transformer", text_layers)]
    for tower, ours, depth in towers:
        for number in range(depth):
            here, there = f"{tower}.encoder.layers.{number}", f"{ours}.resblocks.{number}"
            names |= {f"{here}.{name}": f"{there}.{other}" for name, other in block.items()}
            for kind in ("weight", "bias"):
                parts = [theirs[f"{here}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
                yield f"{there}.attn.in_proj_{kind}", torch.cat(parts)
    for name, other in names.items():
        for kind in ("weight", "bias"):
            yield f"{other}.{kind}", theirs[f"{name}.{kind}"]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' progress bars and lines."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
