"""Files of no known layout, and files that would run code."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.checkpoints.official_files import albef, albef_state, blip, blip_state, retrieval_state
from truepair.errors import CheckpointError
from truepair.models.checkpoints.layouts import ALBEF, BLIP, RETRIEVAL, find_weights
from truepair.models.checkpoints.tensors import read_checkpoint


def found(state: Any, tmp_path: Path, wanted: str | None = None) -> Any:
    torch.save(state, tmp_path / "x.pth")
    return find_weights(read_checkpoint(tmp_path / "x.pth"), wanted, print)


def refusal(state: Any, tmp_path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        found(state, tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_layouts_are_told_apart(tmp_path: Path) -> None:
    states = {ALBEF: albef_state(albef()), RETRIEVAL: retrieval_state(albef()), BLIP: blip_state(blip(), base=True)}
    for layout, state in states.items():
        weights = found({"model": state}, tmp_path)
        assert weights.layout == layout
        assert not any("_m." in name or "queue" in name or "decoder." in name[:13] for name in weights.tensors)


def test_one_of_two_models_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = albef_state(albef())
    both = {f"student.{name}": value for name, value in state.items()}
    both |= {f"teacher.{name}": value + 1 for name, value in state.items()}
    assert torch.equal(found(both, tmp_path).tensors["temp"], state["temp"])
    assert "the weights under student are taken; it also has teacher" in capsys.readouterr().out
    assert torch.equal(found(both, tmp_path, "teacher").tensors["temp"], state["temp"] + 1)
    assert f"{len(state):,} of other models" in found(both, tmp_path, "teacher").left_out


def test_an_unknown_layout_names_what_is_unexpected_and_the_nearest(tmp_path: Path) -> None:
    state = {name.replace("visual_encoder.", "vit."): value for name, value in retrieval_state(albef()).items()}
    said = refusal({"model": state}, tmp_path)
    assert "x.pth is of no known layout (ALBEF, GRIT-VLP or MAFA before fine-tuning; " in said
    assert (
        "the nearest is ALBEF, GRIT-VLP or MAFA, fine-tuned for retrieval; unexpected: vit.cls_token, vit.pos_em"
        in said
    )
    assert "missing: visual_encoder." in said
    said = refusal({"conv.weight": torch.ones(2)}, tmp_path)
    assert "no name is of one" in said and "unexpected: conv.weight" in said


def test_an_extra_or_missing_name_is_told(tmp_path: Path) -> None:
    from truepair.models.checkpoints.blip import load_official_blip

    state = found(blip_state(blip()), tmp_path).tensors
    with pytest.raises(CheckpointError, match=r"has 1 names that BLIP has not: visual_encoder\.gate"):
        load_official_blip({**state, "visual_encoder.gate": torch.ones(1)}, image_heads=1, text_heads=1)
    less = {name: value for name, value in state.items() if name != "itm_head.bias"}
    with pytest.raises(CheckpointError, match=r"lacks 1 weights of BLIP: itm_head\.bias"):
        load_official_blip(less, image_heads=1, text_heads=1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["visual_encoder.cls_token", "text_decoder.bert.embeddings.x"], "of ALBEF or BLIP for captions or questions"),
        (["visual_encoder.cls_token", "cls_head.0.weight"], "for NLVR2 or entailment; give the checkpoint before"),
        (["vision_model.x", "text_model.x", "logit_scale"], "a model of transformers: give the folder"),
        (["query_tokens", "Qformer.bert.x"], "BLIP-2"),
        (["image_encoder.model.x", "fusion_encoder.layers.0.x"], "truepair: give the folder"),
    ],
)
def test_known_models_that_need_no_conversion_are_named(names: list[str], message: str, tmp_path: Path) -> None:
    assert message in refusal({name: torch.ones(1) for name in names}, tmp_path)


class _Calls:
    """An object whose pickle asks to call a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _forbidden(path: str) -> None:
    Path(path).write_text("run")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("function", [_forbidden, eval, os.system], ids=["own", "eval", "system"])
def test_nothing_in_a_file_is_run(function: Any, zipped: bool, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    argument = {eval: f"open({str(flag)!r}, 'w')", os.system: f"touch {flag}"}.get(function, str(flag))
    state = {"model": albef_state(albef()), "args": _Calls(function, argument)}
    torch.save(state, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    try:
        assert read_checkpoint(tmp_path / "evil.pth").classes
    except CheckpointError as error:
        assert "asks to run code" in str(error) and "\n" not in str(error)
    assert not flag.exists()


def test_damaged_and_other_files_are_one_line(tmp_path: Path) -> None:
    torch.save({"model": albef_state(albef())}, tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pth").write_text("<html>404</html>")
    (tmp_path / "half.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with (tmp_path / "list.pkl").open("wb") as file:
        pickle.dump([1, 2], file, protocol=2)
    torch.save(nn.Linear(2, 2), tmp_path / "object.pth")
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    for path in sorted(tmp_path.iterdir()):
        if path.name != "whole.pth":
            with pytest.raises(CheckpointError, match=path.name) as caught:
                read_checkpoint(path)
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 + len(str(path))


def test_names_lose_what_wraps_modules(tmp_path: Path) -> None:
    names = ["module.a.w", "_orig_mod.b.w", "c._fsdp_wrapped_module.d._checkpoint_wrapped_module.w", "module_x.w"]
    state: dict[str, Tensor] = {name: torch.ones(1) for name in names}
    torch.save(state, tmp_path / "x.pth")
    assert list(read_checkpoint(tmp_path / "x.pth").entries[0].tensors) == ["a.w", "b.w", "c.d.w", "module_x.w"]
