"""``truepair COMMAND``: finds the command's module and turns a user's mistake into one line."""

import errno
import importlib
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from truepair import __version__
from truepair.display import unfailing_streams, visible
from truepair.engine.distributed.launch import require_one_process, started_processes
from truepair.errors import DataError, TruepairError, message_of, nearest, shortened
from truepair.files import write_text

# Command: (module with ``run(words)``, help line). A module is imported only when its command is called; a command
# imports what computes only when its words are read. That is why this is a table, and no parser of sub-commands.
COMMANDS = {
    "demo": ("truepair.cli.demo", "train a small model on the bundled pairs and show what it found"),
    "train": ("truepair.cli.train", "train a model on your pairs: truepair train RECIPE PAIRS [--any.field value]"),
    "pretrain": ("truepair.cli.train", "the same, as older scripts call it"),
    "doctor": ("truepair.cli.doctor", "what is wrong with your pairs, before training: truepair doctor PAIRS"),
    "judge": ("truepair.cli.judge", "fit a judge of undeclared pairs on clean ones"),
    "mine": ("truepair.cli.mine", "find what may match in your pairs though nobody declared it: truepair mine PAIRS"),
    "review": ("truepair.cli.review", "say of what was mined whether it matches; a judge learns, with a certificate"),
    "study": ("truepair.cli.study", "compare methods on data and seeds: a grid of runs, tables and a page"),
    "finetune": ("truepair.cli.finetune", "fine-tune on a downstream task: truepair finetune TASK RECIPE"),
    "evaluate": ("truepair.cli.evaluate", "figures of a trained model: truepair evaluate [TASK] MODEL"),
    "embed": ("truepair.cli.embed", "vectors of pictures and captions, to a file: truepair embed MODEL SOURCE"),
    "search": ("truepair.cli.search", "find pictures by a text or a picture: truepair search MODEL VECTORS QUERY"),
    "export": (
        "truepair.cli.export",
        "a model as ONNX files, or verdicts for other trainers: truepair export MODEL FOLDER",
    ),
    "convert": (
        "truepair.cli.convert",
        "a checkpoint of ALBEF, GRIT-VLP, MAFA, BLIP, open_clip as a folder: truepair convert FILE OUT",
    ),
    "push": ("truepair.cli.push", "upload a trained model with its card: truepair push RUN NAME"),
}

_IN_SEVERAL_PROCESSES = ("train", "pretrain", "finetune")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        arguments: its words; those of the process when absent.

    Raises:
        SystemExit: with status 2 and one line on a user's mistake; with status 1 and one line on what nobody foresaw,
            whose traceback is in a file.
    """
    # Threads that wait for each other spin for some microseconds, then sleep. Sleeping at once costs a third of the
    # speed on idle cores, spinning for long half of it on busy ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    with unfailing_streams():
        _run(list(sys.argv[1:] if arguments is None else arguments))


def _run(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] == "--version":
        print(f"truepair {__version__}")
        return
    try:
        _command(words[0])(words[1:])
        if started_processes() > 1:
            from truepair.engine.distributed.processes import leave_processes

            leave_processes()
    except TruepairError as error:
        sys.exit(_fail(message_of(error)))
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            sys.exit(_fail(f"{shortened(error.filename)} is too long for the name of a file; correct it"))
        sys.exit(_fail(_unforeseen(error, words), status=1))
    except KeyboardInterrupt:
        sys.exit(_fail("stopped; run the same command again to go on from the last checkpoint", status=130))


def _command(name: str) -> Callable[[list[str]], None]:
    if name not in COMMANDS:
        raise TruepairError(f"there is no command '{name}'{nearest(name, COMMANDS)}; see truepair --help")
    if name not in _IN_SEVERAL_PROCESSES:
        require_one_process(f"truepair {name}")
    run: Callable[[list[str]], None] = importlib.import_module(COMMANDS[name][0]).run
    return run


def _unforeseen(error: Exception, words: Sequence[str]) -> str:
    """What is said of an error that nobody raised on purpose: its own words, and the file with its traceback.

    With TRUEPAIR_DEBUG in the environment, the traceback is printed instead.
    """
    what = f"{type(error).__name__}: {shortened(message_of(error))}".removesuffix(": ")
    text = "".join(traceback.format_exception(error))
    if os.environ.get("TRUEPAIR_DEBUG"):
        print(text, file=sys.stderr)
        return f"an error that truepair did not foresee: {what}"
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    try:
        file = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "truepair" / "errors" / name
        whole = f"truepair {__version__}, Python {sys.version}\ntruepair {shlex.join(words)}\n\n{text}"
        write_text(file, whole.encode("utf-8", "backslashreplace").decode("utf-8"))  # a name may be no text
    except (DataError, RuntimeError) as refusal:  # nowhere to write, or no home
        where = f"its traceback could not be kept ({refusal}); TRUEPAIR_DEBUG=1 prints it"
    else:
        where = f"its traceback is in {file}; TRUEPAIR_DEBUG=1 prints it"
    return f"an error that truepair did not foresee: {what}; {where}"


def _help() -> str:
    rows = "\n".join(f"  {name:<10} {line}" for name, (_, line) in COMMANDS.items())
    return (
        "truepair: train vision-language models on image-text pairs\n"
        "without punishing the matches hiding among the negatives\n\n"
        f"usage: truepair COMMAND [options]\n\n{rows}\n\n'truepair COMMAND --help' lists the options of a command."
    )


def _fail(line: str, status: int = 2) -> int:
    print(f"truepair: {visible(line)}", file=sys.stderr)
    return status


if __name__ == "__main__":  # python -m truepair.cli.main, as launchers call a module
    main()
