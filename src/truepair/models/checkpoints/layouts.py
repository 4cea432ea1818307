"""Whose weights a checkpoint file holds: the layouts that can be told by names, and the words for all others."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from transformers import BlipConfig, BlipForImageTextRetrieval

from truepair.errors import CheckpointError
from truepair.models.checkpoints.blip import our_name
from truepair.models.checkpoints.official import OF_TRAINING, is_left_out, official_names
from truepair.models.checkpoints.tensors import CheckpointFile, choose_entry
from truepair.models.fusion.config import AlbefConfig

ALBEF, RETRIEVAL, BLIP, OPEN_CLIP = "ALBEF", "ALBEF for retrieval", "BLIP", "open_clip"

_PATCHES = "visual_encoder.patch_embed.proj.weight"
_WORDS = "embeddings.word_embeddings.weight"
_TYPES = "embeddings.token_type_embeddings.weight"

# Names that only a model of a layout has; the first is looked for in any depth, and what stands before it is taken off.
_ANCHORS: Mapping[str, tuple[str, ...]] = {
    ALBEF: (_PATCHES, f"text_encoder.bert.{_WORDS}", "itm_head.weight"),
    RETRIEVAL: (_PATCHES, f"text_encoder.{_WORDS}", f"text_encoder.{_TYPES}", "itm_head.weight"),
    BLIP: (_PATCHES, f"text_encoder.{_WORDS}", "text_encoder.encoder.layer.0.crossattention.self.query.weight"),
    OPEN_CLIP: ("logit_scale",),
}

_TITLES = {
    ALBEF: "ALBEF, GRIT-VLP or MAFA before fine-tuning",
    RETRIEVAL: "ALBEF, GRIT-VLP or MAFA, fine-tuned for retrieval",
    BLIP: "BLIP for retrieval or ITM, or its base model",
    OPEN_CLIP: "open_clip",
}

# What models have that compare no image with a text, or that need no conversion, by names that only they have.
_OTHERS: tuple[tuple[str, str], ...] = (
    (r"(.*\.)?(Qformer|query_tokens)(\..*)?", "BLIP-2, which is a judge here: its folder from the hub"),
    (
        r"(.*\.)?vision_model\..*",
        "a model of transformers: give the folder that it lies in, with its config.json",
    ),
    (r"(.*\.)?(text_encoder|fusion_encoder)\.layers\..*", "truepair: give the folder that its file lies in"),
    (r"(.*\.)?cls_head\..*", "ALBEF or BLIP for NLVR2 or entailment; give the checkpoint before fine-tuning"),
    (r"(.*\.)?text_decoder\..*", "ALBEF or BLIP for captions or questions; give the checkpoint before fine-tuning"),
)


@dataclass(frozen=True)
class Weights:
    """The weights of one model in a checkpoint file.

    Attributes:
        layout: one of `ALBEF`, `RETRIEVAL`, `BLIP` and `OPEN_CLIP`.
        tensors: by the names of that layout, without what is of its training alone.
        left_out: how many tensors of which kinds were left out, in words; empty for none.
    """

    layout: str
    tensors: dict[str, Tensor]
    left_out: str

    @property
    def title(self) -> str:
        """The layout in words."""
        return _TITLES[self.layout]


def find_weights(checkpoint: CheckpointFile, wanted: str | None, say: Callable[[str], None]) -> Weights:
    """The weights of a model of a known layout.

    Args:
        checkpoint: the file.
        wanted: which of several, see `choose_entry`.
        say: prints a line.

    Raises:
        CheckpointError: there are none; the message names what was unexpected, and the nearest layout.
    """
    found: list[tuple[str, Weights]] = []
    for entry in checkpoint.entries:
        for layout, anchors in _ANCHORS.items():
            for prefix in _prefixes(entry.tensors, anchors[0]):
                inner = {n.removeprefix(prefix): t for n, t in entry.tensors.items() if n.startswith(prefix)}
                if all(name in inner for name in anchors) and _is_of(layout, inner):
                    name = ".".join(part for part in (entry.path, prefix.rstrip(".")) if part)
                    found.append((name, _without_training(layout, inner, len(entry.tensors) - len(inner))))
    if not found:
        raise CheckpointError(_unknown(checkpoint))
    weights: Weights = choose_entry(found, wanted, checkpoint.file, say)
    return weights


def _prefixes(names: Iterable[str], anchor: str) -> list[str]:
    """What stands before a name, wherever it ends others; the shortest first."""
    found = {name.removesuffix(anchor) for name in names if name == anchor or name.endswith(f".{anchor}")}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _is_of(layout: str, tensors: Mapping[str, Tensor]) -> bool:
    """What the anchors of a layout leave open."""
    if layout == BLIP:  # ALBEF's first layers do not look at an image
        return f"text_encoder.{_TYPES}" not in tensors and "itm_head.weight" in tensors
    if layout == OPEN_CLIP:
        return any(name.startswith("visual.") for name in tensors)
    return True


def _without_training(layout: str, tensors: dict[str, Tensor], outside: int) -> Weights:
    """The weights of a model alone."""
    if layout == OPEN_CLIP:
        return Weights(layout, tensors, f"{outside:,} of other models" if outside else "")
    decoder = {name for name in tensors if layout == BLIP and name.startswith("text_decoder.")}
    of_training = {name for name in tensors if OF_TRAINING.fullmatch(name)}
    queues = {name for name in of_training if "queue" in name}
    counts = {
        "of a momentum model": len(of_training - queues),
        "of queues": len(queues),
        "of the caption decoder": len(decoder),
        "of other models": outside,
    }
    kept = {name: tensor for name, tensor in tensors.items() if not is_left_out(name) and name not in decoder}
    return Weights(layout, kept, ", ".join(f"{count:,} {what}" for what, count in counts.items() if count))


def _unknown(checkpoint: CheckpointFile) -> str:
    """What to say of a file of no known layout."""
    largest = max(checkpoint.entries, key=lambda entry: len(entry.tensors))
    names = [name for name in largest.tensors if not is_left_out(name)]
    for pattern, what in _OTHERS:
        other = next((name for name in names if re.fullmatch(pattern, name)), None)
        if other is not None:
            return f"{checkpoint.file} is, by its {other}, of {what}"
    shared, layout, unexpected, missing = max(
        (_compared(names, layout) for layout in _ANCHORS), key=lambda compared: compared[0]
    )
    more = f", ... ({len(unexpected):,} of {len(names):,})" if len(unexpected) > 4 else ""
    unlike = f"; unexpected: {', '.join(unexpected[:4])}{more}" if unexpected else ""
    lacks = f"; missing: {', '.join(missing[:3])}" if missing else ""
    nearest = f"the nearest is {_TITLES[layout]}" if shared else f"no name is of one, {_TITLES[layout]} say"
    return (
        f"{checkpoint.file} is of no known layout ({'; '.join(_TITLES.values())}); {nearest}{unlike}{lacks}; give a "
        "checkpoint of one of these, or a folder of a model"
    )


def _compared(names: list[str], layout: str) -> tuple[float, str, list[str], list[str]]:
    """The share of names that a layout has too, from 0 to 1; its name; names that it has not, and those it lacks."""
    own = _patterns(layout)
    given = {_pattern(name): name for name in names}
    share = len(own & given.keys()) / len(own | given.keys())
    unexpected = [name for name in names if _pattern(name) not in own]
    return share, layout, unexpected, sorted(own - given.keys())


def _pattern(name: str) -> str:
    """A name without the numbers of its layers."""
    return re.sub(r"\.\d+\.", ".N.", name)


@cache
def _patterns(layout: str) -> frozenset[str]:
    """The names of a layout, without the numbers of layers."""
    if layout in (ALBEF, RETRIEVAL):
        names = set(official_names(AlbefConfig(mlm_head=layout == ALBEF)))
    elif layout == BLIP:
        with torch.device("meta"):
            sizes = {"num_hidden_layers": 1}
            model = BlipForImageTextRetrieval(BlipConfig(text_config=sizes, vision_config=sizes))
        ours = {our_name(name): name for name in official_names(AlbefConfig()) if name.startswith("visual_encoder.")}
        names = {ours.get(name, name) for name in model.state_dict()} | {"temp"}
    else:
        blocks = ("ln_1", "ln_2", "attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
        kinds = {f"{tower}transformer.resblocks.0.{block}" for tower in ("", "visual.") for block in blocks}
        kinds |= {"visual.ln_pre", "visual.ln_post", "ln_final"}
        names = {f"{m}{'_' if m.endswith('in_proj') else '.'}{kind}" for m in kinds for kind in ("weight", "bias")}
        names |= {"logit_scale", "text_projection", "visual.proj", "visual.conv1.weight", "visual.class_embedding"}
        names |= {"positional_embedding", "visual.positional_embedding", "token_embedding.weight"}
    return frozenset(_pattern(name) for name in names)
