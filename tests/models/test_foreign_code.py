"""A folder of a model may bring code and pickles along: none is run, none is asked about, and it is one line."""

import ast
import io
import json
import os
import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoImageProcessor, AutoTokenizer

import truepair
from truepair.data.tokens import load_tokenizer
from truepair.errors import TruepairError
from truepair.models.checkpoints.bert import albef_from_bert
from truepair.models.checkpoints.load import load_part
from truepair.models.encoders.images import load_image_encoder
from truepair.models.encoders.sentences import load_sentence_encoder
from truepair.models.open import open_model

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}

CODE = """
from pathlib import Path
Path(__file__).with_name("RUN").touch()
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
class Config(PretrainedConfig):
    model_type = "foreign"
class Model(PreTrainedModel):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""


class Program:
    """Unpickled, it makes a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder / "RUN"),)


def foreign(folder: Path, kind: str) -> Path:
    """A folder of a kind of model, with code of its own and weights that are a program."""
    folder.mkdir()
    names = {"AutoConfig": "code.Config", "AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]} | {
        f"Auto{name}": "code.Model" for name in ("Model", "ImageProcessor", "Processor", "ModelForImageTextToText")
    }
    (folder / "code.py").write_text(CODE)
    for file in ("config", "tokenizer_config", "preprocessor_config", "processor_config"):
        values = {"model_type": kind, "auto_map": names, **SIZES, "image_size": 16, "patch_size": 8, "vocab_size": 50}
        (folder / f"{file}.json").write_text(json.dumps(values))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Program(folder)))
    return folder


LOADERS: dict[str, Callable[[str], Any]] = {
    "model.image_checkpoint": load_image_encoder,
    "model.text_checkpoint": albef_from_bert,
    "text.tokenizer": load_tokenizer,
    "sentence encoder": load_sentence_encoder,
    "model.checkpoint": open_model,
    "a judge's image processor": partial(load_part, AutoImageProcessor),
    "a judge's tokenizer": partial(load_part, AutoTokenizer),
}


@pytest.mark.parametrize("kind", ["foreign", "bert", "vit", "clip", "blip", "truepair-albef"])
@pytest.mark.parametrize("loader", LOADERS)
def test_nothing_beside_a_model_is_run(
    loader: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = foreign(tmp_path / "model", kind)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\ny\ny\n"))

    try:
        LOADERS[loader](str(folder))
    except TruepairError as error:
        assert "\n" not in str(error)
        assert "trust_remote_code=True" not in str(error)
        assert "weights_only" not in str(error)
    else:
        assert loader in (
            "text.tokenizer",
            "a judge's tokenizer",
            "a judge's image processor",
        )  # of a kind that transformers knows itself

    assert not (folder / "RUN").exists()
    assert sys.stdin.read() == "y\ny\ny\n"
    assert "[y/N]" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("loader", "kind"), [("model.image_checkpoint", "vit"), ("model.text_checkpoint", "bert")])
def test_weights_that_are_a_program_are_named(loader: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(TruepairError, match=r"its weights are a pickle that may run code, which is never opened"):
        LOADERS[loader](str(foreign(tmp_path / "model", kind)))


def test_every_part_of_a_model_is_loaded_without_its_code() -> None:
    """Whatever transformers picks by a config is told so; a class that is named needs no code beside it."""
    for path in Path(str(truepair.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained"):
                picked = ast.unparse(node.func).startswith(("Auto", "kind."))
                told = {word.arg: ast.unparse(word.value) for word in node.keywords}.get("trust_remote_code")
                assert told == "False" or not picked, f"{path}, line {node.lineno}"
