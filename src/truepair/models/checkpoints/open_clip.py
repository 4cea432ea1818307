"""Checkpoints of open_clip's trainer: which architecture they are of, and their model."""

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from truepair.errors import CheckpointError, ConfigError, nearest
from truepair.models.checkpoints.official import count_numbers
from truepair.models.dual.open_clip import OpenClipDualEncoder, OpenClipPreprocessing, preprocessing_of
from truepair.models.dual.open_clip_source import CONFIG_FILE, attempt, library

_HEAD = 64  # channels of an attention head, unless an architecture says otherwise

_RUN_NAME = re.compile(r"model_(.+?)-lr_")  # as open_clip's trainer names its runs


def open_clip_of(
    state: Mapping[str, Tensor],
    file: Path,
    say: Callable[[str], None],
    *,
    run: str = "",
    architecture: str | None = None,
    heads: int = 0,
    image_size: int = 0,
) -> tuple[OpenClipDualEncoder, OpenClipPreprocessing]:
    """The model of some weights under open_clip's names.

    Weights do not say which architecture they are of. It is, in this order: the one that is named; that of the config
    beside the file; the one in the name of the trainer's run; the only one of open_clip's whose weights have these
    names and shapes, and the plain one among several; a CLIP with a ViT and a text transformer of these sizes.

    Args:
        state: By name, in float32.
        file: As messages name it.
        say: Prints a line.
        run: Name of the run that made them.
        architecture: Name of open_clip's architecture, or a JSON file of one.
        heads: Attention heads of both towers, where the architecture is none of open_clip's; 0 for 64 channels each.
        image_size: Height and width of the images to come; position embeddings are interpolated. 0 for the
            architecture's own.

    Raises:
        CheckpointError: the weights are of no architecture, or of another one than the named.
        ConfigError: there is no such architecture, or open_clip is not installed.
    """
    beside = file.parent / CONFIG_FILE
    if architecture is None and beside.is_file():
        architecture = str(beside)
        say(f"{file.name}: the architecture is that of the {CONFIG_FILE} beside it")
    name, config = architecture_of(state, file, say, run, architecture, heads)
    stated = _stated_pixels(architecture, name)
    own_size = config["vision_cfg"].get("image_size", 224)
    if image_size and image_size != own_size:
        config["vision_cfg"]["image_size"] = image_size
        say(f"{file.name}: position embeddings are interpolated from {own_size} to {image_size} px")
    model = _build(config)
    weights = dict(state)
    attempt(str(file), library().model.resize_pos_embed, weights, model)
    if "logit_scale" in weights:
        weights["logit_scale"] = weights["logit_scale"].reshape(model.logit_scale.shape)  # a number, or one of a row
    different = _differences(weights, model)
    if different:
        raise CheckpointError(f"{file} does not fit its architecture: {different}; name another: --architecture NAME")
    model.load_state_dict(weights, strict=False)  # all but buffers, which older files have
    pixels = asdict(library().transform.PreprocessCfg(**{**stated, "size": model.visual.image_size}))
    library().model.set_model_preprocess_cfg(model, pixels)
    of = f"those of {Path(architecture or name).name}" if stated else "the defaults of open_clip, which are CLIP's"
    say(
        f"{file.name}: it does not say how images are normalised and resized; taken are {of} "
        f"(mean {', '.join(f'{value:.3g}' for value in pixels['mean'])}; {pixels['resize_mode']})"
    )
    made = OpenClipDualEncoder(model.eval(), config)
    with TemporaryDirectory() as folder:  # open_clip makes a tokenizer of a config beside the weights
        Path(folder, CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": pixels}), "utf-8")
        tokenizer = attempt(str(file), library().get_tokenizer, f"local-dir:{folder}")
    return made, preprocessing_of(made, tokenizer, str(file))


def architecture_of(
    state: Mapping[str, Tensor],
    file: Path,
    say: Callable[[str], None],
    run: str,
    named: str | None,
    heads: int,
) -> tuple[str, dict[str, Any]]:
    """The name, where it has one, and the ``model_cfg`` of some weights."""
    known = library()
    of_run = _RUN_NAME.search(run)
    if named is None and of_run is not None and known.get_model_config(of_run[1]) is not None:
        named = of_run[1]
        say(f"{file.name}: {named} of open_clip, as the name of its run says")
    if named is not None:
        if named.endswith(".json"):
            return "", _of_file(Path(named))
        config = known.get_model_config(named)
        if config is None:
            raise ConfigError(f"open_clip has no architecture {named}{nearest(named, known.list_models())}")
        return named, copy.deepcopy(config)
    fitting = [name for name in known.list_models() if _may_be(state, known.get_model_config(name), name)]
    if fitting:
        plain = min(fitting, key=lambda name: (_is_special(name), len(name), name))
        others = [name for name in fitting if name != plain]
        also = (
            f"; {', '.join(others)} have the same shapes: if it is one of them, --architecture NAME" if others else ""
        )
        say(f"{file.name}: {plain} of open_clip, by its shapes{also}")
        return plain, copy.deepcopy(known.get_model_config(plain))
    return "", _inferred(state, file, say, heads)


def _stated_pixels(architecture: str | None, name: str) -> dict[str, Any]:
    """How images reach a model: as the file of its config says, or all weights of its architecture in open_clip agree.

    Nothing where neither says it.
    """
    parts = ("mean", "std", "interpolation", "resize_mode")
    if architecture is not None and architecture.endswith(".json"):
        settings = json.loads(Path(architecture).read_text(encoding="utf-8")).get("preprocess_cfg", {})
        return {part: value for part, value in settings.items() if part in parts and value}
    known = library()
    tags = known.list_pretrained_tags_by_model(name) if name else []
    found = [{n: v for n, v in known.get_pretrained_cfg(name, tag).items() if n in parts and v} for tag in tags]
    return found[0] if found and all(one == found[0] for one in found) else {}


def _of_file(file: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        config = config.get("model_cfg", config)
        if {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
            return config
        reason = "it has no embed_dim, vision_cfg and text_cfg"
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error)
    raise ConfigError(f"{file} is no architecture of open_clip ({reason}); give its JSON file")


def _is_special(name: str) -> bool:
    """Whether a name adds something to that of the plain architecture which weights do not show."""
    return any(word in name.lower() for word in ("quickgelu", "coca", "plus", "alt", "pre-hf", "metaclip"))


def _may_be(state: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> bool:
    """Whether weights have the names and shapes of an architecture of open_clip; ones of timm and others are not tried.

    Sizes first, since building takes time.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or "hf_model_name" in text:
        return False
    prefix = "text." if "text.token_embedding.weight" in state else ""
    table, projection = state.get(f"{prefix}token_embedding.weight"), state.get("visual.conv1.weight")
    if table is None or projection is None:
        return False
    sizes = (text.get("vocab_size", 49408), text.get("width", 512))
    if tuple(table.shape) != sizes or (
        isinstance(vision.get("layers"), int) and projection.shape[0] != vision["width"]
    ):
        return False
    with torch.device("meta"):
        try:
            model = _build(config)
        except (TypeError, ValueError, RuntimeError):
            return False
    return not _differences(state, model)


def _differences(state: Mapping[str, Tensor], model: nn.Module) -> str:
    """The first difference between weights and a model in words; empty where there is none."""
    parameters = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    buffers = {"attn_mask", "text.attn_mask", "position_ids", "text.transformer.embeddings.position_ids"}
    unknown = sorted(state.keys() - parameters.keys() - buffers)
    missing = sorted(parameters.keys() - state.keys() - buffers)
    other = [n for n in parameters if n in state and tuple(state[n].shape) != parameters[n] and state[n].numel() > 1]
    if unknown:
        return f"{len(unknown)} names are not of it ({', '.join(unknown[:3])})"
    if missing:
        return f"{len(missing)} weights are missing ({', '.join(missing[:3])})"
    if other:
        return f"{other[0]} is {list(state[other[0]].shape)}, not {list(parameters[other[0]])}"
    return ""


def _inferred(state: Mapping[str, Tensor], file: Path, say: Callable[[str], None], heads: int) -> dict[str, Any]:
    """A CLIP with a ViT and a text transformer, its sizes read off the weights.

    Raises:
        CheckpointError: it has no such towers.
    """
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "token_embedding.weight")
    missing = [name for name in (*needed, "positional_embedding") if name not in state]
    if missing:
        raise CheckpointError(
            f"{file} is none of open_clip's architectures that can be told by their weights ({missing[0]} is missing); "
            "name it: --architecture NAME, with a tower of timm or transformers, say"
        )
    width, _, patch, _ = state["visual.conv1.weight"].shape
    side = int((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    vocabulary, text_width = state["token_embedding.weight"].shape
    image_heads, text_heads = (heads or max(1, size // _HEAD) for size in (width, text_width))
    say(
        f"{file.name}: no architecture of open_clip has these shapes; a CLIP of that size with {image_heads} and "
        f"{text_heads} attention heads is made (--heads N, or --architecture FILE.json, for another)"
    )
    return {
        "embed_dim": state["visual.proj"].shape[1],
        "vision_cfg": {
            "image_size": side * patch,
            "patch_size": patch,
            "width": width,
            "head_width": width // image_heads,
            "layers": count_numbers(state, r"visual\.transformer\.resblocks\.(\d+)\..*"),
            "mlp_ratio": _mlp_ratio(state, "visual.", width),
        },
        "text_cfg": {
            "context_length": len(state["positional_embedding"]),
            "vocab_size": vocabulary,
            "width": text_width,
            "heads": text_heads,
            "layers": count_numbers(state, r"transformer\.resblocks\.(\d+)\..*"),
            "mlp_ratio": _mlp_ratio(state, "", text_width),
        },
    }


def _mlp_ratio(state: Mapping[str, Tensor], prefix: str, width: int) -> float:
    wide = state.get(f"{prefix}transformer.resblocks.0.mlp.c_fc.weight")
    return 4.0 if wide is None else len(wide) / width


def _build(config: Mapping[str, Any]) -> Any:
    """An untrained model of a ``model_cfg``."""
    settings = copy.deepcopy(dict(config))
    custom = settings.pop("custom_text", False) or "hf_model_name" in settings["text_cfg"]
    for tower, name in (("vision_cfg", "timm_model_pretrained"), ("text_cfg", "hf_model_pretrained")):
        if name in settings[tower]:
            settings[tower][name] = False
    module = library().model if "multimodal_cfg" not in settings else library().coca_model
    kind = module.CoCa if "multimodal_cfg" in settings else module.CustomTextCLIP if custom else module.CLIP
    return kind(**settings)
