"""``truepair export MODEL FOLDER`` and ``truepair export MINED FOLDER --format KIND``."""

import argparse
from pathlib import Path

from truepair.cli.importing import importing
from truepair.cli.options import CommandParser
from truepair.cli.run_folder import quiet_libraries, say
from truepair.errors import ConfigError

DESCRIPTION = """Writes both towers of MODEL (a run, a folder or checkpoint file, or a name on the hub) as ONNX files
into FOLDER, with tokenizer, image processor and a README that shows how to use them with NumPy. What onnxruntime makes
of them is compared with the model first. It needs: pip install "truepair[onnx]".

Or writes the verdicts of a folder that 'truepair mine' made, or of any ledger with --data, as others train on them:

  --format sentence-transformers   pairs of picture and caption, with --negatives N hard negatives of each
  --format open_clip               a CSV for its trainer, with ids of rows that must not meet in a batch
  --format pairs                   every pair with its verdict, as Parquet and CSV

Matches are the pairs that the certificate is about, and those that people said yes to; docs/export.md says more."""

ONNX = "onnx"
VERDICTS = ("sentence-transformers", "open_clip", "pairs")
OF_VERDICTS = ("low", "high", "judge", "negatives", "data")


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: a word is missing or has no use here, or a package is missing.
    """
    parser = CommandParser("truepair export", usage="MODEL|MINED FOLDER [options]", description=DESCRIPTION)
    parser.add_argument("source", metavar="MODEL", nargs="?", help="a model, or a folder with verdicts")
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="where the files go")
    none = argparse.SUPPRESS
    parser.option("format", choices=(ONNX, *VERDICTS), help=f"{ONNX} for a model (default), or one for verdicts")
    parser.option("low", metavar="P", type=float, default=none, help="a negative is less probable (default: 0.1)")
    parser.option("high", metavar="P", type=float, default=none, help="take a judge's word from here on for a match")
    parser.option("judge", metavar="NAME", default=none, help="whose verdicts count, where a ledger has several judges")
    parser.option("negatives", metavar="N", type=int, default=none, help="hard negatives of each pair (default: 0)")
    parser.option("data", metavar="SOURCE", default=none, help="the pairs that a ledger is about")
    call = parser.read_or_help(words)
    if call.folder is None:
        raise ConfigError("give the model and a folder: truepair export MODEL FOLDER")
    stated = {name: value for name, value in vars(call).items() if name in OF_VERDICTS}
    if call.format in VERDICTS:
        if "negatives" in stated and call.format != VERDICTS[0]:
            raise ConfigError(f"--negatives is for --format {VERDICTS[0]}")
        _verdicts(call.source, call.folder, call.format, stated)
        return
    if (Path(call.source) / "candidates.parquet").is_file():
        raise ConfigError(f"{call.source} holds verdicts; say for whom: --format {', '.join(VERDICTS)}")
    if stated:
        raise ConfigError(f"--{next(iter(stated))} is about verdicts; say for whom: --format {', '.join(VERDICTS)}")

    with importing():
        from truepair.models.checkpoints.onnx import export_onnx
        from truepair.models.open import model_folder, open_model

    quiet_libraries()
    done = export_onnx(open_model(call.source, say), Path(call.folder), name=Path(model_folder(call.source)).name)
    say(f"image.onnx and text.onnx, whose vectors differ by at most {done.difference:.1g}: {done.folder}")


def _verdicts(source: str, folder: str, kind: str, stated: dict[str, object]) -> None:
    with importing():
        from truepair.tasks.export.files import ExportConfig, export_verdicts, open_verdicts

    quiet_libraries()
    data = stated.pop("data", None)
    opened = open_verdicts(Path(source), None if data is None else str(data), say)
    export_verdicts(opened, kind, Path(folder), ExportConfig(**stated), say)  # type: ignore[arg-type]
    say(f"written for {kind}: {folder}")
