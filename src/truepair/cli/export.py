"""``truepair export MODEL FOLDER``."""

from pathlib import Path

from truepair.cli.options import CommandParser
from truepair.cli.run_folder import quiet_libraries, say
from truepair.errors import ConfigError

DESCRIPTION = """Writes both towers of MODEL (a run, a model folder, or a name on the hub) as ONNX files into FOLDER,
with tokenizer, image processor and a README that shows how to use them with NumPy. What onnxruntime makes of them is
compared with the model first. It needs: pip install "truepair[onnx]"."""


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: a word is missing, or a package is.
    """
    parser = CommandParser("truepair export", usage="MODEL FOLDER [options]", description=DESCRIPTION)
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a run, a model folder, or a name on the hub")
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="where the files go")
    parser.option("format", choices=("onnx",), default="onnx", help="of the files (default: onnx)")
    call = parser.read_or_help(words)
    if call.folder is None:
        raise ConfigError("give the model and a folder: truepair export MODEL FOLDER")

    from truepair.models.checkpoints.onnx import export_onnx
    from truepair.models.open import model_folder, open_model

    quiet_libraries()
    done = export_onnx(open_model(call.model), Path(call.folder), name=Path(model_folder(call.model)).name)
    say(f"image.onnx and text.onnx, whose vectors differ by at most {done.difference:.1g}: {done.folder}")
