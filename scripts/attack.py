"""Attack the commands, and count what they survive: a kill, a cut file, a full disk, a hostile name, two runs at once.

    python scripts/attack.py                                   # all kinds, a try of each in turn, for 25 minutes
    python scripts/attack.py --kinds kill cache --minutes 5    # some kinds
    python scripts/attack.py --kinds kill:3 cache:10           # so many tries of each
    python scripts/attack.py --kinds cache --only 7            # that one try again; --keep --folder F leaves its files
    python scripts/attack.py --source ../other/src             # the commands of another checkout
    python scripts/attack.py --output attack.json --page attack.md

Everything happens on 48 drawings that are made first, in a folder of its own. A try is one attack on real commands in
processes of their own, drawn from the seed, the kind and its number alone. It ends as one of

  survived   what the kind promises was kept
  lost       it was not: another result without a word, a run that is not taken up again, code that was run
  hung       it did not end within the limit of its kind
  traceback  Python's words in place of one line
  crashed    the interpreter died of something that was not the attack
  skipped    this system lets nobody try it (no right to mount, say); the reason is counted
  own fault  the attack itself failed; the exit status is then 3

Figures: experiments/results/attack.

To spare each try ten seconds of imports, this program imports the commands once and forks; `--cold` starts a Python
for each. What needs several processes (torchrun) or what dies before its imports is started cold in any case. File
systems are mounted in a mount namespace of this program's own, and are gone with it.
"""

import argparse
import atexit
import contextlib
import ctypes
import dataclasses
import fcntl
import functools
import hashlib
import io
import itertools
import json
import math
import multiprocessing
import os
import platform
import pty
import random
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OUTCOMES = ("survived", "lost", "hung", "traceback", "crashed", "skipped", "own fault")
COMMAND = "from truepair.cli.main import main; main()"

# Of a kind of square: what its captions say. Small enough that a run takes a second.
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "white": (250, 250, 250)}
SIDES = {"small": 4, "middle": 8, "large": 14}
TINY = {
    "image_encoder": {"model_type": "conv_stem", "image_size": 16, "hidden_size": 32, "num_hidden_layers": 1},
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "text_layers": 1,
    "fusion_layers": 1,
    "embed_dim": 16,
    "image_pooling": "mean",
    "text_pooling": "mean",
}


# --------------------------------------------------------------------------------------------------- outcomes


class Fault(Exception):  # noqa: N818 - the outcomes are named for what is counted
    """A try that ended as something else than survived."""

    outcome = "own fault"


class Lost(Fault):
    """What was promised was not kept."""

    outcome = "lost"


class Hung(Fault):
    """It did not end in time."""

    outcome = "hung"


class Traceback(Fault):
    """Python's words reached the user."""

    outcome = "traceback"


class Crashed(Fault):
    """The interpreter died of itself."""

    outcome = "crashed"


class Skipped(Fault):
    """Not to be tried on this system."""

    outcome = "skipped"


def require(kept: bool, why: str) -> None:
    """Count the try as lost unless a promise was kept.

    Raises:
        Lost: it was not.
    """
    if not kept:
        raise Lost(why)


# -------------------------------------------------------------------------------------------------- processes


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: its exit status; negative for a signal.
        out: what it printed.
        err: what it said; on a terminal the same as ``out``.
        seconds: how long it took.
    """

    status: int
    out: str
    err: str
    seconds: float

    @property
    def last(self) -> str:
        """The last line that it said."""
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""


@dataclass
class Call:
    """A command in a process of its own.

    Attributes:
        words: after ``truepair``; the words of another program if ``program`` is set.
        folder: where it runs, and where what it says is kept.
        program: the beginning of the command line of a cold process, for torchrun.
        before: what the new process does before anything else: limits, mounts.
        terminal: it runs on a terminal, to which ``typed`` is typed.
        stdout: where its output goes in place of a file.
        stderr: the same of what it says.
        environment: further variables.
        cold: it starts a Python of its own.
        patience: seconds until it counts as hung.
        killed: signals that the attack itself sends; no other one may end it.
        others_speak: a traceback there may be one of torchrun's, or of torch where the other rank was killed.
    """

    words: Sequence[str]
    folder: Path
    program: Sequence[str] = ()
    before: Sequence[Callable[[], None]] = ()
    terminal: bool = False
    typed: bytes = b""
    stdout: int | None = None
    stderr: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    cold: bool = False
    patience: float = 120.0
    killed: tuple[int, ...] = ()
    others_speak: bool = False

    def start(self) -> "Running":
        """Start it, and come back at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".out-", dir=Machine.said)
        errors, errors_name = tempfile.mkstemp(prefix=".err-", dir=Machine.said)
        master = slave = None
        if self.terminal:
            master, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            os.write(master, self.typed)
        streams = (
            slave if slave is not None else os.open(os.devnull, os.O_RDONLY),
            self.stdout if self.stdout is not None else slave if slave is not None else handle,
            self.stderr if self.stderr is not None else slave if slave is not None else errors,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become(streams)
        for stream in {handle, errors, streams[0]} - {None}:
            os.close(stream)
        return Running(self, pid, Path(name), Path(errors_name), master)

    def run(self) -> Ended:
        """Start it, and wait until it ends as it may."""
        return self.start().ended()

    def _become(self, streams: tuple[int, int, int]) -> None:
        """The new process: the command with nothing of the attack in it. Never returns."""
        status = 70  # of a fault of the attack
        try:
            os.setsid()
            if self.terminal:
                fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.closerange(3, 256)
            os.chdir(self.folder)
            os.environ.update(self.environment)
            for step in self.before:
                step()
            if self.cold or self.program or Machine.cold:
                program = self.program or (sys.executable, "-c", COMMAND)
                os.execvpe(program[0], [*program, *self.words], os.environ)
            sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            status = _as_interpreter(self.words)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)


def _as_interpreter(words: Sequence[str]) -> int:
    """Run the command and end as Python does: the status, threads joined, atexit, buffers flushed."""
    from truepair.cli.main import main

    atexit._clear()
    sys.argv = ["truepair", *words]
    status = 0
    try:
        main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        if isinstance(ended.code, str):
            with contextlib.suppress(OSError):
                print(ended.code, file=sys.stderr)
    except BaseException:
        status = 1
        with contextlib.suppress(OSError):  # where it cannot be shown
            traceback.print_exc()
    with contextlib.suppress(BaseException):
        threading._shutdown()
        multiprocessing.util._exit_function()
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 120
    return status


class Running:
    """A command on its way."""

    def __init__(self, call: Call, pid: int, out: Path, err: Path, master: int | None) -> None:
        self.call = call
        self.pid = pid
        self.files = (out, err)
        self.master = master
        self.started = time.monotonic()
        self.status: int | None = None
        self.shown = bytearray()

    def poll(self) -> bool:
        """Whether it has ended; takes what it shows on its terminal."""
        while self.master is not None and select.select([self.master], [], [], 0)[0]:
            try:
                part = os.read(self.master, 65536)
            except OSError:  # nobody holds the other side any more
                part = b""
            if not part:
                os.close(self.master)
                self.master = None
            self.shown += part
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def hang_up(self) -> None:
        """Lose the terminal without a signal, as a process that outlives its login does."""
        self.poll()
        if self.master is not None:
            os.close(self.master)
            self.master = None

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Whether it ended within so many seconds; comes back earlier once ``until`` says so."""
        end = time.monotonic() + seconds
        while not self.poll() and time.monotonic() < end and not until():
            time.sleep(0.005)
        return self.status is not None

    def send(self, number: int) -> None:
        """Send a signal to the process, not to its children."""
        if not self.poll():
            os.kill(self.pid, number)

    def children(self) -> list[int]:
        """Process ids below it, the nearest first."""
        parents: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                words = stat.read_text().rpartition(")")[2].split()
                if words[0] != "Z":
                    parents.setdefault(int(words[1]), []).append(int(stat.parent.name))
        found, below = [], [self.pid]
        for pid in below:
            below += parents.get(pid, [])
            found += parents.get(pid, [])
        return found

    def ended(self) -> Ended:
        """Wait for its end.

        Raises:
            Fault: it hung, crashed, or ended with a traceback.
        """
        in_time = self.wait(self.call.patience)
        below = self.children()
        if not in_time:
            self.send(signal.SIGKILL)
            self.wait(20)
        for pid in below:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        self.poll()
        self.hang_up()
        out, err = (file.read_bytes().decode("utf-8", "replace") for file in self.files)
        for file in self.files:
            file.unlink()
        if self.call.terminal:
            out = err = self.shown.decode("utf-8", "replace")
        name = " ".join(self.call.words[:2])
        said = err if err is out else out + err
        if not in_time:
            raise Hung(f"{name}: no end after {self.call.patience:.0f} s; it had said: {err.strip()[-200:]!r}")
        if "Traceback (most recent call last)" in said and not self.call.others_speak:
            lines = said[said.index("Traceback (most recent call last)") :].strip().splitlines()
            raise Traceback(f"{name}: {next((line for line in lines[1:] if line[:1] not in ' '), lines[-1])[:200]}")
        assert self.status is not None
        if self.status < 0 and -self.status not in self.call.killed:
            raise Crashed(f"{name}: {signal.Signals(-self.status).name}; {err.strip()[-200:]!r}")
        if self.status == 70:
            raise RuntimeError(f"{name} was not started: {err}")
        done = Ended(self.status, out, err, time.monotonic() - self.started)
        Machine.last = f"status {done.status}, {done.last[-200:]}"
        return done


class Machine:
    """What this system allows, and where it is done."""

    said = Path()
    cold = False
    may_mount = False
    last = ""
    """How the last command ended."""

    @classmethod
    def open(cls, folder: Path, cold: bool) -> None:
        """Take a mount namespace of our own, if we may."""
        cls.said, cls.cold = folder / "said", cold
        cls.said.mkdir()
        with contextlib.suppress(OSError):
            own_mounts()
            trial = folder / "trial"
            trial.mkdir()
            mount(trial, 64)
            unmount(trial)
            cls.may_mount = True

    @classmethod
    def require_mounts(cls) -> None:
        """Skip the try where no file system can be mounted."""
        if not cls.may_mount:
            raise Skipped("no right to mount")


def own_mounts() -> None:
    """A mount namespace for this process and its children."""
    new_namespace = 0x00020000
    if not sys.platform.startswith("linux"):
        raise OSError("no mount namespaces here")
    if ctypes.CDLL(None, use_errno=True).unshare(new_namespace):
        raise OSError(ctypes.get_errno(), "unshare")
    system("mount", "--make-rprivate", "/")


def mount(folder: Path, kilobytes: int) -> None:
    """A small file system in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    system("mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder))


def remount(folder: Path, options: str) -> None:
    """Change the size of a file system, or whether it can be written."""
    system("mount", "-o", f"remount,{options}", str(folder))


def unmount(folder: Path) -> None:
    """Take a file system away, whoever still uses it."""
    system("umount", "--lazy", str(folder))


def system(*words: str) -> None:
    """Run a program of the system.

    Raises:
        OSError: it failed, or is not there.
    """
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


def small_shared_memory() -> None:
    """2 MB of /dev/shm for this process and its children, as pictures of 16 px are to a container's 64 MB."""
    own_mounts()
    system("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", "/dev/shm")


def read_only_root(writable: Path) -> Callable[[], None]:
    """All that is mounted cannot be written, as in a locked container; but one folder, and 2 MB of /dev/shm."""

    def lock() -> None:
        small_shared_memory()
        system("mount", "--bind", str(writable), str(writable))
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        kept = (str(writable), "/dev", "/dev/shm", "/dev/pts", "/proc")
        for point in sorted(set(points) - set(kept), key=len):
            with contextlib.suppress(OSError):  # of the kernel's own, which nobody writes
                system("mount", "-o", "remount,ro,bind", point)
        with contextlib.suppress(OSError):
            (writable.parent / "probe").touch()
            raise RuntimeError("what should be read-only can be written")
        os.environ["HOME"] = "/nowhere"  # of a user whom the container does not know
        os.chdir(writable)

    return lock


def address_space(megabytes: int) -> Callable[[], None]:
    """A limit of so many megabytes above what the process has now."""

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    return limit


def largest_file(size: int) -> Callable[[], None]:
    """No file may grow beyond so many bytes: a full disk, for who may not mount one."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# ------------------------------------------------------------------------------------------- drawings and runs


class World:
    """The drawings, recipes and undisturbed runs that the tries are compared with; each is made when first asked for.

    Attributes:
        folder: where all of it is. Nothing in it is changed by a try, which has a copy of what it damages.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.references: dict[str, Path] = {}
        self.durations: dict[Path, float] = {}
        self.words: dict[Path, list[str]] = {}
        self.data = write_drawings(folder / "data")

    def recipe(self, name: str, data: Path | None = None, **changes: Any) -> Path:
        """A recipe of the tiny model: ``plain`` trains all of it, ``frozen`` reads frozen states, ``judged`` a judge.

        Args:
            name: which.
            data: the list of pairs in place of the usual one.
            changes: dotted fields, with two underscores for a point.
        """
        values: dict[str, Any] = {
            "data": {
                "sources": [str(data or self.data)],
                "validation_split": "test",
                "captions": "first",
                "transform": {"size": 16, "rand_augment_ops": 0},
            },
            "text": {"vocab_size": 100, "max_length": 10},
            "model": {"options": TINY},
            "optimizer": {"learning_rate": 0.003, "warmup_steps": 2},
            "loop": {"epochs": 3, "batch_size": 8, "workers": 0, "log_every": 1, "cpu": True, "keep_checkpoints": 3},
            "evaluation": {"rerank": 2},
        }
        if name == "frozen":
            values["model"] |= {"freeze_image": True, "freeze_text": True, "cache_images": True, "cache_captions": True}
            values["objectives"] = {"itm": {"weight": 0.0}, "mlm": {"weight": 0.0}}
            values["evaluation"]["rerank"] = 0
        for dotted, value in changes.items():
            *groups, last = dotted.split("__")
            functools.reduce(lambda part, group: part.setdefault(group, {}), groups, values)[last] = value
        text = json.dumps(values, indent=1)  # JSON is YAML
        file = self.folder / "recipes" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    def train(self, recipe: Path, run: Path, *more: str, **how: Any) -> Call:
        """A training command."""
        return Call(["train", str(recipe), "--run-folder", str(run), *more], self.folder, **how)

    def reference(self, recipe: Path, *more: str) -> Path:
        """The run of a recipe that nothing disturbs."""
        key = " ".join([str(recipe), *more])
        if key not in self.references:
            run = self.folder / "runs" / f"reference-{len(self.references)}"
            done = self.train(recipe, run, *more).run()
            expect_end(done)
            self.references[key] = run
            self.words[run] = [str(recipe), *more]
        return self.references[key]

    def duration(self, reference: Path) -> float:
        """Seconds of such a run, now that the caches are filled."""
        if reference not in self.durations:
            again = self.folder / "again"
            done = Call(["train", *self.words[reference], "--run-folder", str(again)], self.folder).run()
            expect_end(done)
            shutil.rmtree(again)
            self.durations[reference] = done.seconds
        return self.durations[reference]

    def half(self, recipe: Path, run: Path, *more: str) -> Path:
        """A copy of that run as a kill in its last epoch would have left it."""
        shutil.copytree(self.reference(recipe, *more), run)
        for name in ("model", "retrieval.json"):
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.rmtree(checkpoints(run)[-1])
        return run

    @functools.cached_property
    def clip(self) -> Path:
        """A tiny CLIP with its processor and tokenizer."""
        return self._made("clip", save_clip, 0)

    @functools.cached_property
    def other_clip(self) -> Path:
        """The same with other weights."""
        return self._made("other-clip", save_clip, 1)

    @functools.cached_property
    def bert(self) -> Path:
        """A tiny text encoder."""
        return self._made("bert", save_bert)

    def _made(self, name: str, make: Callable[..., None], *arguments: Any) -> Path:
        """What a function writes, in a process of its own: this one computes nothing, so that it can fork."""
        folder = self.folder / name
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                make(folder, *arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError(f"{folder} could not be made")
        return folder

    @functools.cached_property
    def csv(self) -> Path:
        """The drawings as a list of a caption a line, without groups."""
        rows = [json.loads(line) for line in self.data.read_text().splitlines()]
        lines = [f'{row["image"]},"{row["captions"][0]}",{row["split"]}' for row in rows]
        file = self.data.with_name("pairs.csv")
        file.write_text("\n".join(["image,caption,split", *lines]) + "\n")
        return file

    @functools.cached_property
    def judge(self) -> Path:
        """An evidence judge."""
        run = self.folder / "judge"
        expect_end(Call(["judge", str(self.recipe("frozen")), "--run-folder", str(run)], self.folder).run())
        return run

    @functools.cached_property
    def judged(self) -> Path:
        """What the judge mined: a ledger."""
        return self.mine_with(self.judge, self.folder / "judged")

    def mine_with(self, judge: Path, folder: Path, low: float = 0.1) -> Path:
        """A ledger of what a judge says of the drawings."""
        words = ["mine", str(self.recipe("frozen")), "--judge", str(judge), "--high", "0.4", "--low", str(low)]
        expect_end(Call([*words, "--run-folder", str(folder)], self.folder).run())
        return folder

    @functools.cached_property
    def mined(self) -> Path:
        """What is mined without a judge."""
        folder = self.folder / "mined"
        expect_end(Call([*self.mine_words, "--run-folder", str(folder)], self.folder).run())
        return folder

    @property
    def mine_words(self) -> list[str]:
        """Mining without labels, by the tiny encoders."""
        return ["mine", str(self.csv), "--model", str(self.clip), "--text-encoder", str(self.bert), "--top", "20"]


def expect_end(done: Ended) -> None:
    """An undisturbed command must end well, else nothing can be compared with it."""
    if done.status:
        raise RuntimeError(f"an undisturbed command failed with {done.status}: {done.err.strip()[-1000:]}")


def write_drawings(folder: Path, side: int = 16) -> Path:
    """48 pictures of squares in four shades, the last of which is the test split, and their list."""
    from PIL import Image

    folder.mkdir(parents=True)
    lines = []
    for colour, rgb in COLOURS.items():
        for size, length in SIDES.items():
            for shade in range(4):
                picture = Image.new("RGB", (side, side), "black")
                dark = tuple(value * (20 - shade) // 20 for value in rgb)
                picture.paste(dark, (1, 1, 1 + length * side // 16, 1 + length * side // 16))
                name = f"{colour}-{size}-{shade}.png"
                picture.save(folder / name)
                caption = f"a {size} {colour} square" if shade % 2 else f"{colour} square, {size}"
                row = {"image": name, "captions": [caption], "split": "test" if shade == 3 else "train"}
                lines.append(json.dumps(row | {"group": f"{colour} {size}"}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "pairs.jsonl"


def _tokenizer(length: int) -> Any:
    from truepair.data.tokens import train_wordpiece

    captions = [f"a {size} {colour} square, alphabet soup" for colour in COLOURS for size in SIDES]
    tokenizer = train_wordpiece(captions, 80, min_frequency=1)
    tokenizer.model_max_length = length
    return tokenizer


def save_clip(folder: Path, seed: int) -> None:
    """Write a CLIP of random weights with processor and tokenizer, as on the hub."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    widths = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = _tokenizer(12)
    special = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = {**widths, "vocab_size": len(tokenizer), "max_position_embeddings": 12, **special}
    vision = {**widths, "image_size": 16, "patch_size": 8}
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)


def save_bert(folder: Path) -> None:
    """Write a BERT of random weights with its tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = _tokenizer(40)
    widths = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **widths)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-????????"))


def weights(run: Path) -> dict[str, bytes]:
    """The trained model of a run, bit by bit: files and their contents."""
    return {file.name: file.read_bytes() for file in sorted((run / "model").glob("*.safetensors"))}


def require_equal(run: Path, reference: Path, done: Ended, *, log: bool = True) -> None:
    """Require that a run ended well, with the weights and the log of an undisturbed one."""
    require(done.status == 0, f"not taken up again: {done.status}, {done.last[-200:]}")
    require(bool(weights(reference)) and weights(run) == weights(reference), f"other weights; {done.last[-120:]}")
    if log:
        same = (run / "log.jsonl").read_bytes() == (reference / "log.jsonl").read_bytes()
        require(same, "equal weights, another log")


def require_refusal(done: Ended, what: str) -> None:
    """Require one line of refusal."""
    require(done.status == 2, f"{what}: status {done.status}, {done.last[-160:]}")
    require("truepair: " in done.err, f"{what}: no line, {done.last[-160:]}")


# ------------------------------------------------------------------------------------------------------ damage


def damage(
    file: Path, rng: random.Random, ways: Sequence[str] = ("cut", "flip", "empty", "noise", "folder", "gone")
) -> str:
    """Damage a file in one way.

    Returns:
        What was done.
    """
    data = bytearray(file.read_bytes())
    way = rng.choice(ways if data else ["folder", "noise"])
    if way == "gone":
        file.unlink()
    elif way == "folder":
        file.unlink()
        file.mkdir()
    elif way == "empty":
        file.write_bytes(b"")
    elif way == "cut":
        file.write_bytes(data[: rng.randrange(len(data))])
    elif way == "flip":
        place = rng.randrange(len(data))
        data[place] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
    else:
        place = rng.randrange(max(len(data) - 16, 1))
        data[place : place + 16] = rng.randbytes(16)
        file.write_bytes(data)
    return f"{way}: {file.name}"


def files_below(folder: Path) -> list[Path]:
    """All files of a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------- kinds


@dataclass
class Try:
    """One attack.

    Attributes:
        world: what it is compared with.
        folder: its own.
        rng: drawn from the seed, the kind and its number.
        number: which of its kind.
        what: what was done, in words; filled in on the way.
    """

    world: World
    folder: Path
    rng: random.Random
    number: int
    what: str = ""

    @property
    def run(self) -> Path:
        """Its run folder."""
        return self.folder / "run"

    def own_data(self) -> Path:
        """A copy of the drawings that may be damaged; returns its list."""
        shutil.copytree(self.world.data.parent, self.folder / "data", dirs_exist_ok=True)
        return self.folder / "data" / "pairs.jsonl"

    def pick(self, choices: Sequence[Any]) -> Any:
        """One of several, so that the tries of a kind go through all of them, in an order of the seed."""
        order = list(choices)
        random.Random(self.shuffle).shuffle(order)
        return order[self.number % len(order)]

    shuffle: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of attack.

    Attributes:
        name: on the command line.
        promise: what has to be kept.
        attack: one try; raises a Fault.
        turns: tries in each round; more of those that take a second.
    """

    name: str
    promise: str
    attack: Callable[[Try], None]
    turns: int


KINDS: dict[str, Kind] = {}


def kind(name: str, promise: str, turns: int = 1) -> Callable[[Callable[[Try], None]], Callable[[Try], None]]:
    """Add a function to the kinds."""

    def added(attack: Callable[[Try], None]) -> Callable[[Try], None]:
        KINDS[name] = Kind(name, promise, attack, turns)
        return attack

    return added


# --------------------------------------------------------------------------- kinds: kills, restarts, what is kept


@kind("kill", "killed at any moment, the same command ends with the same weights and log, bit by bit", turns=3)
def attack_kill(t: Try) -> None:
    """Kill a run one to three times, by SIGKILL, SIGTERM or Ctrl-C: starting, in a step, in a checkpoint, ending."""
    changes = t.pick([{}, {"loop__workers": 2}, {"loop__checkpoint_every": 1}, {"sampler__kind": "grit"}])
    recipe = t.world.recipe("plain", loop__epochs=6, **changes)
    reference = t.world.reference(recipe)
    steps, duration = len(_lines(reference / "log.jsonl")), t.world.duration(reference)
    for _ in range(t.rng.randint(1, 3)):
        number = t.rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        running = t.world.train(recipe, t.run, killed=(signal.SIGKILL, signal.SIGTERM)).start()
        if t.rng.random() < 0.25:
            running.wait(t.rng.uniform(0, duration))
        else:  # once so much is logged; a step takes some hundredths of a second, a checkpoint a tenth
            line = t.rng.randrange(steps)
            running.wait(60, until=lambda line=line: len(_lines(t.run / "log.jsonl")) > line)
            time.sleep(t.rng.choice([0, t.rng.uniform(0, 0.1)]))
        running.send(number)
        done = running.ended()
        t.what += f"{number.name} after {len(_lines(t.run / 'log.jsonl'))} of {steps} lines; "
        # A signal before Python's own handlers are there ends it at once, which the system shows as -15 or -2.
        fine = {0, -number, 128 + number, 130}
        require(done.status in fine, f"status {done.status} after {number.name}: {done.last[-160:]}")
    t.what += f"{changes}"
    require_equal(t.run, reference, t.world.train(recipe, t.run).run())


def _lines(log: Path) -> list[bytes]:
    """The lines of a log; none where there is none yet."""
    try:
        return log.read_bytes().splitlines()
    except OSError:
        return []


@kind("restart", "a rank dies under torchrun or accelerate: all start again, and end as if it had not")
def attack_restart(t: Try) -> None:
    """Kill one of two ranks, at any moment after the start."""
    recipe = t.world.recipe("plain", loop__batch_size=4, loop__epochs=12)
    port = str(free_port())
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3", "--monitor_interval", "0.1"]
    accelerate = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--monitor_interval", "0.1"]
    name, launch = t.pick(
        [
            ("torchrun", [*torchrun, "--master-port", port]),
            ("torchrun --standalone", [*torchrun, "--standalone"]),
            ("torchrun c10d", [*torchrun, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]),
            ("accelerate", [*accelerate, "--max_restarts", "3", "--main_process_port", port]),
        ]
    )
    script = t.folder / "rank.py"
    t.folder.mkdir(parents=True, exist_ok=True)
    script.write_text(COMMAND.replace("; ", "\n") + "\n")

    def launched(run: Path) -> Call:
        return Call(
            ["train", str(recipe), "--run-folder", str(run)],
            t.folder,
            program=[sys.executable, "-m", *launch, str(script)],
            environment={"GLOO_SOCKET_IFNAME": "lo"},
            patience=180,
            killed=(signal.SIGKILL,),
            others_speak=True,
        )

    reference = t.world.folder / "runs" / "two-ranks"
    if not reference.exists():
        expect_end(launched(reference).run())
    running = launched(t.run).start()
    begun = t.run / "log.jsonl"
    running.wait(200, until=lambda: begun.exists() and begun.stat().st_size > 0)
    running.wait(t.rng.uniform(0, 2))
    # The ranks are the processes that run the script, and were started by the launcher itself.
    ranks = [pid for pid in running.children() if str(script) in command_line(pid) and "-m" not in command_line(pid)]
    t.what = f"{name}, a rank of {len(ranks)} killed"
    if ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(t.rng.choice(ranks[:2]), signal.SIGKILL)
    require_equal(t.run, reference, running.ended())


def command_line(pid: int) -> list[str]:
    """The words of a process; none once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@kind("checkpoint", "a damaged checkpoint is named, the one before it is used; without a whole one: one line", turns=2)
def attack_checkpoint(t: Try) -> None:
    """Damage one to three files of the newest checkpoint, or of all."""
    recipe = t.world.recipe("plain")
    run = t.world.half(recipe, t.run)
    every = t.number % 5 == 4
    for folder in checkpoints(run) if every else checkpoints(run)[-1:]:
        for _ in range(t.rng.randint(1, 3)):
            files = files_below(folder)
            if files:
                t.what += f"{folder.name}, {damage(t.rng.choice(files), t.rng)}; "
    done = t.world.train(recipe, run).run()
    if every:
        require(done.status == 2 and "truepair: " in done.last, f"status {done.status}: {done.last[-160:]}")
        return
    require_equal(run, t.world.reference(recipe), done)
    newest = sorted((t.world.reference(recipe) / "checkpoints").glob("step-*"))[-2].name
    require(newest in done.err, f"the damaged {newest} is not named")


@kind("cache", "a damaged cache is made anew: the same result", turns=3)
def attack_cache(t: Try) -> None:
    """Damage a file of the Arrow tables, of the hashes beside them, or of the states of frozen encoders."""

    def cached(folder: Path) -> Path:
        source = {"source": str(t.world.data), "cache_dir": str(folder / "rows")}
        return t.world.recipe("frozen", data__sources=[source], model__cache_folder=str(folder / "states"))

    filled = t.world.folder / "caches"
    reference = t.world.reference(cached(filled))
    shutil.copytree(filled, t.folder / "caches", symlinks=True)
    part = t.pick(["rows", "states", "rows/rows.arrow"])
    pattern = part.partition("/")[2]
    files = files_below(t.folder / "caches" / part.partition("/")[0])
    t.what = damage(t.rng.choice([file for file in files if not pattern or file.name == pattern] or files), t.rng)
    done = t.world.train(cached(t.folder / "caches"), t.run).run()
    require_equal(t.run, reference, done)


@kind("run-text", "damaged texts of a run: what resume depends on is named, what is only read never stops it", turns=3)
def attack_run_text(t: Try) -> None:
    """Damage recipe, log, timing or the heard ledger of a run that goes on, with the old settings or with others."""
    mined = t.world.judged / "ledger"
    rules = [{"detector": "recorded", "ledger": str(mined), "zone": "match", "high": 0.4, "action": "relabel"}]
    recipe = t.world.recipe("plain", relations__rules=rules)
    run = t.world.half(recipe, t.run)
    name = t.pick(["recipe.yaml", "recipe.yaml", "log.jsonl", "timing.jsonl", "heard"])
    files = files_below(run / name) if name == "heard" else [run / name]
    if not files:  # this version keeps nothing of the kind
        name, files = "recipe.yaml", [run / "recipe.yaml"]
    ways = ("cut", "flip", "empty", "noise") if name == "recipe.yaml" else ("cut", "flip", "empty", "noise", "gone")
    t.what = damage(t.rng.choice(files), t.rng, ways)
    reference = t.world.reference(recipe)
    if name == "recipe.yaml" and t.rng.random() < 0.5:
        t.what += ", and another weight of a loss"
        done = t.world.train(recipe, run, "--objectives.itm.weight", "0.5").run()
        require(done.status == 2, f"a run with other settings goes on: status {done.status}")
        return
    done = t.world.train(recipe, run).run()
    if name in ("log.jsonl", "timing.jsonl"):
        require_equal(run, reference, done, log=False)
    elif done.status != 2:
        require_equal(run, reference, done)


@kind("ledger", "a damaged ledger is named in one line, or was damaged where nothing is read", turns=2)
def attack_ledger(t: Try) -> None:
    """Damage a part of a mined ledger before a run reads it."""
    shutil.copytree(t.world.judged, t.folder / "mined")
    ledger = t.folder / "mined" / "ledger"
    parts = [file for file in files_below(ledger) if file.suffix == ".parquet"]
    t.what = damage(t.rng.choice(parts), t.rng, ("cut", "flip", "noise", "noise", "empty", "folder"))

    def reading(folder: Path) -> Path:
        rules = [{"detector": "recorded", "ledger": str(folder), "zone": "match", "high": 0.4, "action": "relabel"}]
        return t.world.recipe("plain", relations__rules=rules)

    reference = t.world.reference(reading(t.world.judged / "ledger"))
    done = t.world.train(reading(ledger), t.run).run()
    if done.status != 2:
        require_equal(t.run, reference, done)


# -------------------------------------------------------------------------------- kinds: pictures and other inputs


def break_picture(file: Path, way: str, rng: random.Random) -> None:
    """Make a picture unreadable in some way."""
    data = file.read_bytes()
    file.unlink()
    if way == "fifo":
        os.mkfifo(file)
    elif way == "folder":
        file.mkdir()
    elif way == "loop":
        file.symlink_to(file.name)
    elif way == "cut":
        file.write_bytes(data[: rng.randrange(len(data))])
    elif way == "empty":
        file.write_bytes(b"")
    elif way == "noise":
        file.write_bytes(rng.randbytes(len(data)))


BROKEN = ("gone", "fifo", "folder", "loop", "cut", "empty", "noise")


@kind(
    "picture", "a picture that cannot be read is left out or replaced, and said; one run more is never stopped", turns=3
)
def attack_picture(t: Try) -> None:
    """Break a picture before a run, in the middle of it, or before it goes on."""
    split = t.rng.choice(["train", "test"])
    way = t.pick(BROKEN)
    data = t.own_data()
    names = [row["image"] for row in map(json.loads, data.read_text().splitlines()) if row["split"] == split]
    picture = data.with_name(t.rng.choice(names))
    frozen = t.rng.random() < 0.3
    changes: dict[str, Any] = {"data__max_bad_fraction": 0.2, "data": data}
    if frozen:
        changes |= {"model__cache_folder": str(t.folder / "states")}
    recipe = t.world.recipe("frozen" if frozen else "plain", **changes)
    moment = t.rng.choice(["before", "within", "between"])
    t.what = f"{split} picture {way}, {moment} a {'frozen' if frozen else 'plain'} run"
    call = t.world.train(recipe, t.run, patience=60, killed=(signal.SIGKILL,))
    if moment == "before":
        break_picture(picture, way, t.rng)
        done = call.run()
    else:
        running = call.start()
        log = t.run / "log.jsonl"
        running.wait(60, until=lambda: log.exists() and log.stat().st_size > 0)
        if moment == "between":
            running.send(signal.SIGKILL)
            running.ended()
        break_picture(picture, way, t.rng)
        done = call.run() if moment == "between" else running.ended()
    require(done.status == 0, f"ended: status {done.status}, {done.last[-200:]}")
    require((t.run / "retrieval.json").exists(), "no figures")


@kind("stale", "states that were cached of other pictures are not used", turns=2)
def attack_stale(t: Try) -> None:
    """Cache states, change pictures (overwrite them, or repair one that was missing), and train again."""
    way = t.pick(["overwritten", "repaired", "overwritten at the same time and size"])
    data = t.own_data()
    pictures = sorted(data.parent.glob("*.png"))
    caches = t.folder / "caches"

    def recipe(folder: Path) -> Path:
        check = "bytes" if way.endswith("size") else "times"  # what nothing else tells is told by the bytes
        source = {"source": str(data), "cache_dir": str(folder / "rows"), "cache_check": check}
        where = {"data__sources": [source], "model__cache_folder": str(folder / "states")}
        where |= {"model__cache_check": check}
        return t.world.recipe("frozen", data__max_bad_fraction=0.2, **where)

    t.what = way
    if way == "repaired":
        picture = t.rng.choice(pictures)
        whole = picture.read_bytes()
        # Missing pictures are told when a list is opened; one that is there but unreadable is met when it is encoded.
        picture.write_bytes(whole[:-20] if t.rng.random() < 0.5 else b"no picture")
        t.world.train(recipe(caches), t.folder / "first").run()
        picture.write_bytes(whole)
    else:
        expect_end(t.world.train(recipe(caches), t.folder / "first").run())
        order = pictures[:]
        t.rng.shuffle(order)
        contents = {file: file.read_bytes() for file in pictures}
        for file, other in zip(pictures, order, strict=True):
            stat = file.stat()
            new = contents[other]
            if way != "overwritten":
                new = repainted(contents[file])
            file.write_bytes(new)
            if way != "overwritten":
                # A copy that keeps times, over a file of the same length.
                os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = t.world.train(recipe(caches), t.run).run()
    fresh = t.folder / "fresh"
    expect_end(t.world.train(recipe(t.folder / "fresh-caches"), fresh).run())
    if way != "repaired" and weights(fresh) == weights(t.folder / "first"):
        raise RuntimeError("the other pictures train the same model, so nothing is tried")
    require_equal(t.run, fresh, done)


def repainted(png: bytes) -> bytes:
    """A picture of other colours in a file of the same length."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    turned = Image.merge("RGB", picture.split()[::-1])
    buffer = io.BytesIO()
    turned.save(buffer, "PNG")
    made = buffer.getvalue()
    if len(made) > len(png):
        turned = picture.rotate(180)
        buffer = io.BytesIO()
        turned.save(buffer, "PNG")
        made = buffer.getvalue()
    return made + bytes(max(len(png) - len(made), 0))  # what follows the end of a PNG is not read


@kind("input", "a run whose inputs are others is refused, or keeps the result of the old ones", turns=2)
def attack_input(t: Try) -> None:
    """Change what a run reads before it goes on: captions, pictures, ledger, judge, seed model."""
    way = t.pick(["captions", "pictures", "rows", "ledger", "judge", "seed model", "captions", "judge's file"])
    t.what = way
    data = t.own_data()
    rules: list[dict[str, Any]] = []
    ledger, judge, clip = (t.folder / name for name in ("mined", "judge", "clip"))
    changes: dict[str, Any] = {}
    if way == "ledger":
        shutil.copytree(t.world.judged, ledger)
        rules = [
            {
                "detector": "recorded",
                "ledger": str(ledger / "ledger"),
                "zone": "match",
                "high": 0.4,
                "action": "relabel",
            }
        ]
    if way.startswith("judge"):
        shutil.copytree(t.world.judge, judge)
        rules = [{"detector": "judge", "zone": "match", "low": 0.1, "high": 0.4, "action": "relabel"}]
        changes = {"ecm": {"judge": {"kind": "evidence", "checkpoint": str(judge)}, "ask": "rules"}}
        changes["model__cache_folder"] = str(t.world.folder / "judge-states")
    if rules:
        changes["relations__rules"] = rules
    if way == "seed model":
        shutil.copytree(t.world.clip, clip)
        changes = {"model": {"checkpoint": str(clip)}, "text": {"tokenizer": "model", "max_length": 0}}
        changes |= {"objectives": {"itm": {"weight": 0.0}, "mlm": {"weight": 0.0}}, "evaluation": {"rerank": 0}}
    recipe = t.world.recipe("frozen" if way.startswith("judge") else "plain", data=data, **changes)
    expect_end(t.world.train(recipe, t.folder / "whole").run())
    running = t.world.train(recipe, t.run, killed=(signal.SIGKILL,)).start()
    running.wait(60, until=lambda: bool(checkpoints(t.run)))
    running.send(signal.SIGKILL)
    running.ended()
    shutil.rmtree(t.run / "model", ignore_errors=True)
    for folder in checkpoints(t.run)[1:]:
        shutil.rmtree(folder)
    change_input(t, way, data, ledger, judge, clip)
    done = t.world.train(recipe, t.run).run()
    if done.status != 2:
        require_equal(t.run, t.folder / "whole", done, log=False)


def change_input(t: Try, way: str, data: Path, ledger: Path, judge: Path, clip: Path) -> None:
    """Put another input in the place of one."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    if way == "captions":
        captions = [row["captions"] for row in rows]
        t.rng.shuffle(captions)
        rows = [row | {"captions": own} for row, own in zip(rows, captions, strict=True)]
    if way == "rows":
        t.rng.shuffle(rows)
    data.write_text("\n".join(map(json.dumps, rows)) + "\n")
    if way == "pictures":
        pictures = sorted(data.parent.glob("*.png"))
        contents = [file.read_bytes() for file in pictures]
        t.rng.shuffle(contents)
        for file, content in zip(pictures, contents, strict=True):
            file.write_bytes(content)
    if way == "ledger":
        shutil.rmtree(ledger)
        t.world.mine_with(other_judge(t), ledger, low=0.3)
    if way == "judge":
        shutil.rmtree(judge)
        shutil.copytree(other_judge(t), judge)
    if way == "judge's file":  # one of two that belong together
        file = max(files_below(other_judge(t)), key=lambda file: file.suffix == ".npz" or file.suffix == ".safetensors")
        shutil.copy(file, judge / file.relative_to(other_judge(t)))
    if way == "seed model":
        shutil.rmtree(clip)
        shutil.copytree(t.world.other_clip, clip)


def other_judge(t: Try) -> Path:
    """A judge that was fitted on groups of anything, so that it says something else."""
    folder = t.world.folder / "other-judge"
    if not folder.exists():
        rows = [json.loads(line) for line in t.world.data.read_text().splitlines()]
        groups = [row["group"] for row in rows]
        random.Random(0).shuffle(groups)
        shuffled = t.world.data.with_name("shuffled.jsonl")
        lines = [json.dumps(row | {"group": group}) for row, group in zip(rows, groups, strict=True)]
        shuffled.write_text("\n".join(lines))
        recipe = t.world.recipe("frozen", data=shuffled)
        expect_end(Call(["judge", str(recipe), "--run-folder", str(folder)], t.world.folder).run())
    return folder


@kind("two-runs", "of two runs in one folder one is refused; the model that lies there is of the recipe beside it")
def attack_two_runs(t: Try) -> None:
    """Start a run with other settings, or the same, in the folder of one that begins, trains or ends."""
    recipe = t.world.recipe("plain")
    other = () if t.number % 4 == 3 else ("--objectives.itm.weight", "0.25")
    first, second = t.world.reference(recipe), t.world.reference(recipe, *other)
    # Half of them right after the other, before its first checkpoint: from then on the folder says whose it is.
    moment = t.rng.uniform(0, 1.2 if t.number % 2 else 0.2) * t.world.duration(first)
    running = t.world.train(recipe, t.run).start()
    running.wait(moment)
    t.what = f"after {moment:.2f} s, {other or 'the same settings'}"
    later = t.world.train(recipe, t.run, *other).start()
    done, beside = running.ended(), later.ended()
    fine = [one.status for one in (done, beside)]
    require(0 in fine, f"neither ended well: {fine}, {done.last[-100:]} / {beside.last[-100:]}")
    if other:
        require(fine != [0, 0], "both ended well")
    winner = first if fine[0] == 0 else second
    require(weights(t.run) == weights(winner), "the model is not that of the run that ended well")
    import yaml

    stated, meant = (yaml.safe_load((run / "recipe.yaml").read_text()) for run in (t.run, winner))
    require(stated == meant, "recipe.yaml is of the other run")


# ------------------------------------------------------------------------------------- kinds: terminals and disks


@kind("terminal", "nothing shown stops a run: a lost terminal, `| head -1`, a full device", turns=3)
def attack_terminal(t: Try) -> None:
    """Take away what a run shows its lines on; and read one line of a help text."""
    recipe = t.world.recipe("plain")
    way = t.pick(["lost", "head", "full", "full output", "help", "closed", "lost"])
    t.what = way
    if way == "help":
        _head_of_help(t)
        return
    reference = t.world.reference(recipe)
    call = t.world.train(recipe, t.run)
    if way == "lost":
        moment = t.rng.uniform(0, t.world.duration(reference))
        t.what = f"lost after {moment:.2f} s"
        # The terminal goes without a hang-up signal, as after `disown`: every write fails with EIO.
        ours, theirs = pty.openpty()
        running = dataclasses.replace(call, stdout=theirs, stderr=theirs).start()
        os.close(theirs)
        end = time.monotonic() + moment
        while time.monotonic() < end:
            if select.select([ours], [], [], 0.02)[0]:
                with contextlib.suppress(OSError):
                    os.read(ours, 65536)
        os.close(ours)
        done = running.ended()
    elif way == "head":
        ours, theirs = os.pipe()
        running = dataclasses.replace(call, stdout=theirs, stderr=theirs).start()
        os.close(theirs)
        os.read(ours, 1)
        os.close(ours)
        done = running.ended()
    elif way == "closed":
        close = functools.partial(os.closerange, 1, 3)
        done = dataclasses.replace(call, before=[close], cold=True).run()
    else:
        full = os.open("/dev/full", os.O_WRONLY)
        done = dataclasses.replace(call, **{"stdout": full, **({} if way == "full output" else {"stderr": full})}).run()
        os.close(full)
    require(weights(t.run) == weights(reference), f"no model: status {done.status}, {done.last[-160:]}")
    require((t.run / "retrieval.json").exists(), "no figures")


def _head_of_help(t: Try) -> None:
    """`truepair ... --help | head -1`."""
    words = t.rng.choice([["--help"], ["train", "--help"], ["train", "clip", "--help"], ["mine", "--help"], ["doctor"]])
    t.what = f"{' '.join(words)} | head -1"
    ours, theirs = os.pipe()
    running = Call(words, t.folder, stdout=theirs, cold=True, patience=60).start()
    os.close(theirs)
    os.close(ours)
    done = running.ended()
    require("BrokenPipe" not in done.err, f"says {done.last!r}")


@dataclass(frozen=True)
class Writer:
    """A command that writes, and what it writes.

    Attributes:
        words: of the command, whose files go below a folder.
        prepare: puts what it goes on with there.
    """

    words: Callable[[Try, Path], list[str]]
    prepare: Callable[[Try, Path], None] = lambda t, disk: None


def _answers(t: Try) -> Path:
    """Answers to some of what was mined, as `truepair review --answers` reads them."""
    import pyarrow.parquet as pq

    (part,) = (t.world.mined / "ledger").glob("*.parquet")
    file = t.world.folder / "answers.csv"
    lines = ["time,person,image_id,caption_id,answer"]
    for number, row in enumerate(pq.read_table(part, use_threads=False).slice(0, 30).to_pylist()):
        lines.append(f"2026-01-01,Ann,{row['image_id']},{row['caption_id']},{'no' if number % 3 else 'yes'}")
    file.write_text("\n".join(lines) + "\n")
    return file


def _study(t: Try) -> Path:
    file = t.world.folder / "study.yaml"
    recipe = t.world.recipe("frozen")
    fields = {"loop.epochs": 1, "evaluation.rerank": 0, "loop.save": False, "loop.evaluate_every": 0}
    study = {"title": "S", "recipes": [str(recipe)], "fields": fields, "data": {"all": {}}, "reference": "InfoNCE"}
    masked = [{"detector": "same_caption", "action": "mask"}]
    arms = {"InfoNCE": {}, "masked": {"fields": {"relations.rules": masked}}}
    file.write_text(json.dumps(study | {"arms": arms}))
    return file


def _cached(t: Try, disk: Path) -> Path:
    source = {"source": str(t.world.data), "cache_dir": str(disk / ".rows")}
    return t.world.recipe("frozen", data__sources=[source], model__cache_folder=str(disk / ".states"))


def _trained(t: Try) -> str:
    return str(t.world.reference(t.world.recipe("plain")))


WRITERS: dict[str, Writer] = {
    "train": Writer(lambda t, d: ["train", str(t.world.recipe("plain")), "--run-folder", f"{d}/run"]),
    "train --report": Writer(
        lambda t, d: ["train", str(t.world.recipe("plain")), "--run-folder", f"{d}/run", "--report"]
    ),
    "train, caches": Writer(lambda t, d: ["train", str(_cached(t, d)), "--run-folder", f"{d}/run"]),
    "judge": Writer(lambda t, d: ["judge", str(t.world.recipe("frozen")), "--run-folder", f"{d}/judge"]),
    "mine --judge": Writer(
        lambda t, d: [
            *["mine", str(t.world.recipe("frozen")), "--judge", str(t.world.judge)],
            *["--high", "0.4", "--low", "0.1", "--run-folder", f"{d}/mined"],
        ]
    ),
    "mine": Writer(lambda t, d: [*t.world.mine_words, "--run-folder", f"{d}/mined"]),
    "review": Writer(
        lambda t, d: ["review", f"{d}/mined", "--answers", str(_answers(t)), "--no-browser"],
        lambda t, d: shutil.copytree(t.world.mined, d / "mined") and None,
    ),
    "evaluate": Writer(
        lambda t, d: ["evaluate", _trained(t), "--data", str(t.world.data), "--output", f"{d}/figures.json"]
    ),
    "embed": Writer(lambda t, d: ["embed", _trained(t), str(t.world.data), "--output", f"{d}/vectors.parquet"]),
    "doctor": Writer(
        lambda t, d: [
            *["doctor", str(t.world.data), "--json", f"{d}/doctor.json"],
            *["--page", f"{d}/doctor.html", "--fix", f"{d}/clean.jsonl"],
        ]
    ),
    "export": Writer(
        lambda t, d: [
            "export",
            str(t.world.judged / "ledger"),
            f"{d}/pairs",
            "--format",
            "pairs",
            "--data",
            str(t.world.data),
        ]
    ),
    "study": Writer(lambda t, d: ["study", str(_study(t)), "--folder", f"{d}/study", "--workers", "1"]),
}

NEEDS: dict[str, dict[str, int]] = {}
"""Command -> its files and their bytes, by an undisturbed call."""


def sizes_below(folder: Path) -> dict[str, int]:
    """The files of a folder and their sizes in bytes."""
    return {str(file.relative_to(folder)): file.stat().st_size for file in files_below(folder)}


def lacking(disk: Path, name: str) -> list[str]:
    """The files of a command that are not there; those that are hidden, or of one checkpoint, may lack."""
    there = sizes_below(disk)
    return sorted(one for one in NEEDS[name] if one not in there and not re.search(r"(^|/)\.|checkpoints/", one))


@kind("disk", "a disk that is full or read-only is one line, no half a file; with space the same command ends", turns=3)
def attack_disk(t: Try) -> None:
    """Let a command that writes run out of space at some byte, or give it a folder that cannot be written."""
    name = t.pick(list(WRITERS))
    writer = WRITERS[name]
    disk = t.folder / "disk"
    disk.mkdir(parents=True)
    if name not in NEEDS:
        whole = t.folder / "whole"
        whole.mkdir()
        writer.prepare(t, whole)
        before = sizes_below(whole)
        expect_end(Call(writer.words(t, whole), t.folder).run())
        NEEDS[name] = {one: size for one, size in sizes_below(whole).items() if before.get(one) != size}
    need = sum(NEEDS[name].values())
    read_only = t.rng.random() < 0.25
    room = int(need * t.rng.random() ** 2)
    t.what = f"{name}, {'read-only' if read_only else f'{room:,} of {need:,} bytes'}"
    limits: list[Callable[[], None]] = []
    if Machine.may_mount:
        mount(disk, 64 * 1024)
    elif read_only:
        raise Skipped("no right to mount")
    else:
        limits = [largest_file(max(room // 4, 1))]
    try:
        writer.prepare(t, disk)
        if read_only:
            remount(disk, "ro")
        elif Machine.may_mount:
            usage = shutil.disk_usage(disk)
            (disk / ".filler").write_bytes(bytes(max(usage.free - room, 0)))
        done = Call(writer.words(t, disk), t.folder, before=limits).run()
        # A log to which lines are added may be empty.
        sizes = {one: size for one, size in sizes_below(disk).items() if not one.endswith(".jsonl")}
        empty = [one for one, size in sizes.items() if not size and NEEDS[name].get(one)]
        require(not empty, f"left empty under its own name: {empty[:2]}")
        if done.status:
            require("truepair: " in done.err, f"no line: status {done.status}, {done.last[-160:]}")
        else:
            require(not lacking(disk, name), f"ended well without {lacking(disk, name)[:2]}")
        if read_only:
            remount(disk, "rw")
        (disk / ".filler").unlink(missing_ok=True)
        again = Call(writer.words(t, disk), t.folder).run()
        require(again.status == 0, f"with space: status {again.status}, {again.last[-160:]}")
        require(not lacking(disk, name), f"with space: without {lacking(disk, name)[:2]}")
        if name.startswith("train"):
            whole_run = t.world.reference(t.world.recipe("frozen" if "caches" in name else "plain"))
            require(weights(disk / "run") == weights(whole_run), "with space: other weights")
    finally:
        if Machine.may_mount:
            unmount(disk)


@kind("shm", "64 MB of shared memory: one line that names it and the remedy, or the same result; signals are served")
def attack_shm(t: Try) -> None:
    """Train with loading workers on pictures that do not fit into /dev/shm, as in a container; and stop that run."""
    Machine.require_mounts()
    side = 160
    data = t.world.folder / "large" / "pairs.jsonl"
    if not data.exists():
        write_drawings(data.parent, side)
    options = {**TINY, "image_encoder": {**TINY["image_encoder"], "image_size": side}}
    more = {"data__transform__size": side, "model__options": options, "loop__workers": 4, "loop__epochs": 2}
    cached = t.rng.random() < 0.3
    if cached:
        more |= {"model__cache_folder": str(t.folder / "states")}
    recipe = t.world.recipe("frozen" if cached else "plain", data=data, **more)
    call = t.world.train(recipe, t.run, before=[small_shared_memory], patience=90, killed=(signal.SIGKILL,))
    stopped = t.rng.random() < 0.4
    t.what = f"{'frozen states' if cached else 'plain'}{', SIGTERM' if stopped else ''}"
    if stopped:
        running = call.start()
        if not running.wait(t.rng.uniform(2, 12)):
            running.send(signal.SIGTERM)
        done = running.ended()
        require(done.status in (0, 2, 143, -15), f"status {done.status}: {done.last[-160:]}")
        return
    done = call.run()
    if done.status:
        require(done.status == 2 and "shm" in done.err, f"status {done.status}, no word of it: {done.last[-160:]}")
    else:
        require(bool(weights(t.run)), "no model")


@kind("container", "all is read-only but one folder: the command ends in it, or one line says what cannot be written")
def attack_container(t: Try) -> None:
    """Run a command that writes where it can write in one folder alone, with a cache there or without one."""
    Machine.require_mounts()
    name = t.pick([one for one in WRITERS if one != "train, caches"])
    writer = WRITERS[name]
    disk = t.folder / "disk"
    disk.mkdir(parents=True)
    writer.prepare(t, disk)
    words = writer.words(t, disk)  # which makes what it reads, while that can be written
    cached = t.rng.random() < 0.6
    places = {"XDG_CACHE_HOME": str(disk / "cache"), "HF_HOME": str(disk / "hub"), "TMPDIR": str(disk)}
    t.what = f"{name}, {'with' if cached else 'without'} a place for caches"
    call = Call(words, t.folder, before=[read_only_root(disk)], environment=places if cached else {}, cold=True)
    done = call.run()
    if done.status:
        require(done.status == 2 and "truepair: " in done.err, f"no line: status {done.status}, {done.last[-160:]}")
        require(not cached, f"with all that it needs: {done.last[-160:]}")
    else:
        made = [one for one in disk.rglob("*") if one.is_file() and "cache" not in one.parts and "hub" not in one.parts]
        require(bool(made), "ended well, and made nothing")


@kind(
    "memory", "too little memory, or a worker that the system kills, is one line; the run goes on with enough", turns=2
)
def attack_memory(t: Try) -> None:
    """Limit the address space or the memory of a run, or kill one of its loading workers."""
    way = t.pick(["address space", "worker", "group"])
    changes: dict[str, Any] = {"loop__workers": 2 if way == "worker" else 0}
    recipe = t.world.recipe("plain", **changes)
    reference = t.world.reference(recipe)
    call = t.world.train(recipe, t.run, killed=(signal.SIGKILL,))
    if way == "worker":
        running = call.start()
        log = t.run / "log.jsonl"
        running.wait(60, until=lambda: log.exists() and log.stat().st_size > 0)
        below = running.children()
        if below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(t.rng.choice(below), signal.SIGKILL)
        t.what = f"one of {len(below)} workers killed"
        done = running.ended()
    elif way == "address space":
        megabytes = t.rng.randint(1, 150)
        t.what = f"{megabytes} MB of address space more than at the start"
        done = dataclasses.replace(call, before=[address_space(megabytes)]).run()
    else:
        megabytes = t.rng.randint(8, 120)
        t.what = f"a memory group of {megabytes} MB more"
        with memory_group(megabytes) as enter:
            done = dataclasses.replace(call, before=[enter]).run()
    t.what += f": status {done.status}"
    if done.status not in (0, -signal.SIGKILL):
        require(done.status == 2 and "truepair: " in done.err, f"status {done.status}: {done.last[-160:]}")
    require_equal(t.run, reference, t.world.train(recipe, t.run).run())


@contextlib.contextmanager
def memory_group(megabytes: int) -> Iterator[Callable[[], None]]:
    """A control group for one process that may take so much memory beyond what it shares with us.

    Raises:
        Skipped: no group may be made here.
    """
    group = Path("/sys/fs/cgroup/memory") / f"attack-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(megabytes * 2**20))
    except OSError as error:
        raise Skipped("no right to make a memory group") from error
    try:
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


# -------------------------------------------------------------------------------------- kinds: what people write


WRONG: list[Any] = [
    *(None, True, -1, 0, 1.5, 2**70, -(2**70), math.nan, math.inf, "", " ", "é", "a" * 100_000, "a\0b", "\ud800"),
    *(
        [],
        {},
        [[]],
        [None],
        [1],
        [[1, "a"]],
        ["a", 1],
        {"a": 1},
        {"bytes": None, "path": None},
        [{}],
        "../../etc/passwd",
    ),
]
FIELDS = [
    "image",
    "caption",
    "captions",
    "image_id",
    "caption_id",
    "caption_ids",
    "split",
    "group",
    "names",
    "family",
    "id",
]


@kind("type", "a value of a wrong type in a list of pairs is a row left out, or one line", turns=8)
def attack_type(t: Try) -> None:
    """Put a value of a wrong type into a row, or a column of one into a Parquet file, and read it."""
    data = t.own_data()
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    name, value = t.rng.choice(FIELDS), t.rng.choice(WRONG)
    share = t.rng.choice([1, 1, len(rows)])
    for row in t.rng.sample(rows, share):
        row[name] = value
    layout = t.pick(["jsonl", "json", "latin-1", "parquet", "csv", "jsonl"])
    t.what = f"{layout}, {name} = {value!r:.60} in {share} of {len(rows)} rows"
    file = data.with_name(f"wrong.{layout}")
    if layout == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    elif layout == "json":
        file.write_text(json.dumps(rows))
    elif layout == "latin-1":
        file = data.with_name("wrong.jsonl")
        text = t.rng.choice(["Caf\xe9", "\xff\xfe", "\xc3"])
        t.what = f"{name} = {text!r} in Latin-1"
        rows[3][name] = text
        file.write_bytes("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode("latin-1", "replace"))
    elif layout == "csv":
        names = list(dict.fromkeys(key for row in rows for key in row))
        values = [[row.get(key, "") for key in names] for row in rows]
        cells = [[one if isinstance(one, str) else json.dumps(one) for one in row] for row in values]
        lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells]
        file.write_text("\n".join([",".join(names), *lines]), encoding="utf-8", errors="surrogateescape")
    else:
        _wrong_parquet(t, file, rows, name)
    command = t.rng.choice(["doctor", "train", "evaluate"])
    t.what += f", {command}"
    words = {
        "doctor": ["doctor", str(file)],
        "train": ["train", str(t.world.recipe("plain", data=file, loop__epochs=1)), "--run-folder", str(t.run)],
        "evaluate": ["evaluate", _trained(t), "--data", str(file)],
    }[command]
    done = Call(words, t.folder, before=[address_space(4096)]).run()
    require(done.status in (0, 2), f"status {done.status}: {done.last[-160:]}")
    require(done.status == 0 or "truepair: " in done.err, f"no line: {done.last[-160:]}")


def _wrong_parquet(t: Try, file: Path, rows: list[dict[str, Any]], name: str) -> None:
    """The list as a Parquet file in which one column has another type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = [pa.int8(), pa.uint64(), pa.float16(), pa.bool_(), pa.binary(), pa.timestamp("us"), pa.date32()]
    types += [
        pa.decimal128(5, 2),
        pa.list_(pa.int64()),
        pa.list_(pa.list_(pa.string())),
        pa.struct([("a", pa.int64())]),
    ]
    types += [pa.map_(pa.string(), pa.string()), pa.large_string(), pa.null(), pa.dictionary(pa.int8(), pa.string())]
    kind_of = t.rng.choice(types)
    t.what = f"parquet, {name} of type {kind_of}"
    usual = {"image": [], "captions": [], "split": [], "group": []}
    columns: dict[str, Any] = {key: [json.loads(json.dumps(row.get(key))) for row in rows] for key in usual}
    columns |= {"image": [f"{colour}-{size}-{shade}.png" for colour in COLOURS for size in SIDES for shade in range(4)]}
    columns["captions"] = [["a red square"]] * len(rows)
    columns["split"], columns["group"] = ["train"] * 36 + ["test"] * 12, ["g"] * len(rows)
    columns[name] = pa.nulls(len(rows), kind_of) if t.rng.random() < 0.3 else _values_of(kind_of, len(rows))
    pq.write_table(pa.table(columns), file)


def _values_of(kind_of: Any, count: int) -> Any:
    """A column of some type with a value in each row, where the type has a plain one; else nulls."""
    import pyarrow as pa

    for value in (1, "a", b"\xff\xfe", [1], [["a"]], {"a": 1}, [("a", "b")], True, 1.5):
        with contextlib.suppress(pa.ArrowException, ValueError, TypeError, OverflowError):
            return pa.array([value] * count, kind_of)
    return pa.nulls(count, kind_of)


REFUSED: list[tuple[str, str]] = [
    *(
        ("data.validation_split", "vall"),
        ("data.max_bad_fraction", ".nan"),
        ("data.sources", "[]"),
        ("loop.workers", "-1"),
    ),
    *(("loop.seed", "-5"), ("loop.batch_size", "0"), ("loop.batch_size", "-8"), ("loop.epochs", "0")),
    *(
        ("model.options.num_attention_heads", "0"),
        ("model.options.hidden_size", "0"),
        ("model.options.embed_dim", "-1"),
    ),
    *(
        ("model.options.text_layers", "-1"),
        ("text.max_length", "-3"),
        ("text.vocab_size", "-1"),
        ("loop.accumulate", "0"),
    ),
    *(("optimizer.learning_rate", ".nan"), ("optimizer.learning_rate", "-1"), ("optimizer.warmup_steps", "-1")),
    *(
        ("optimizer.betas", "[1, 2, 3]"),
        ("optimizer.clip_norm", ".nan"),
        ("loop.precision", "fp7"),
        ("loop.log_every", "0"),
    ),
    *(("objectives.itm.hard_fraction", "2"), ("objectives.itm.weight", ".nan"), ("evaluation.rerank", "-1")),
    *(("data.transform.size", "-16"), ("data.transform.crop_scale", "[2, 1]"), ("data.transform.flip", "3")),
    *(
        ("loop.keep_checkpoints", "0"),
        ("loop.checkpoint_every", "-1"),
        ("loop.micro_batch", "-2"),
        ("loop.profile", "-1"),
    ),
    *(
        ("data.validation_share", "1.5"),
        ("loop.average_decay", "1.5"),
        ("loop.max_skipped", "-1"),
        ("data.captions", "none"),
    ),
]
ODD = [
    "-1",
    "-5",
    "0",
    ".nan",
    ".inf",
    "1.5",
    "[]",
    "{}",
    "[1]",
    "[[]]",
    "{a: 1}",
    "null",
    "true",
    "é",
    "' '",
    "../..",
    "'\\0'",
]


@kind("setting", "a setting that cannot be is refused in one line; any other is taken or refused", turns=6)
def attack_setting(t: Try) -> None:
    """Give a field a value that is known to be wrong, or any field an odd one; and odd sections of the file."""
    recipe = t.world.recipe("plain", loop__epochs=1)
    if t.number % 4 == 3:
        text = t.rng.choice(
            ["data: []", "loop: 3", "model: [a]", "base: [1]", "base: {a: 1}", "[]", "3", "text: ''", "null"]
        )
        recipe = t.folder / "odd.yaml"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(text + "\n")
        t.what = f"a recipe that says {text}"
        done = Call(
            ["train", str(recipe), "--loop.epochs", "1", "--run-folder", str(t.run)], t.folder, patience=60
        ).run()
        require_refusal(done, t.what)
        return
    if t.number % 4 == 2:
        name, value = t.rng.choice(_dotted(t)), t.rng.choice(ODD)
    else:
        name, value = REFUSED[(t.number // 4 * 2 + t.number % 4) % len(REFUSED)]
    t.what = f"--{name} {value}"
    call = t.world.train(recipe, t.run, f"--{name}", value, before=[address_space(8192)])
    done = call.run()
    if (name, value) in REFUSED:
        require_refusal(done, t.what)
    require(done.status in (0, 2), f"status {done.status}: {done.last[-160:]}")
    require(done.status == 0 or "truepair: " in done.err, f"no line: {done.last[-160:]}")


def _dotted(t: Try) -> list[str]:
    """All fields of a recipe, by the one that a run keeps."""
    import yaml

    names: list[str] = []

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict) and value:
            for key, part in value.items():
                walk(part, f"{name}.{key}" if name else key)
        else:
            names.append(name)

    walk(yaml.safe_load((Path(_trained(t)) / "recipe.yaml").read_text()), "")
    return [name for name in names if name not in ("loop.epochs", "loop.trackers")]


@kind("yaml", "a YAML file that is a bomb or code is one line, within seconds", turns=3)
def attack_yaml(t: Try) -> None:
    """A recipe or a study of aliases within aliases, of itself, of deep brackets, of tags that would run code."""
    canary = t.folder / "canary"
    width, depth = t.rng.randint(8, 12), t.rng.randint(7, 9)
    names = "abcdefghij"
    bomb = "a: &a [x, x, x]\n" + "".join(
        f"{names[k]}: &{names[k]} [{', '.join(['*' + names[k - 1]] * width)}]\n" for k in range(1, depth)
    )
    merges = "a: &a {x: 1}\n" + "".join(
        f"{names[k]}: &{names[k]} {{{', '.join(f'k{n}: *{names[k - 1]}' for n in range(width))}}}\n"
        for k in range(1, depth)
    )
    texts = {
        "aliases": bomb,
        "aliases in a field": f"{bomb}loop: *{names[depth - 1]}\n",
        "maps of aliases": merges,
        "itself": "data: &a\n  sources: [*a]\n",
        "a list of itself": "loop: &a [*a]\n",
        "brackets": "data: " + "[" * 20_000,
        "braces": "data: " + "{a: " * 3_000 + "1" + "}" * 3_000,
        "code": f"loop: !!python/object/apply:os.system ['touch {canary}']\n",
        "a new object": f"loop: !!python/object/new:subprocess.Popen [['touch', '{canary}']]\n",
        "its own base": "base: odd.yaml\n",
        "NUL": "loop: {epochs: 1}\0\n",
        "Latin-1": "# Caf\xe9\nloop: {epochs: 1}\n",
        "a long number": "loop: {seed: " + "9" * 10_000 + "}\n",
        "tabs": "loop:\n\tepochs: 1\n",
        "two documents": "loop: {epochs: 1}\n---\nloop: {epochs: 2}\n",
        "keys that are lists": "? [a, b]\n: 1\n",
    }
    name = t.pick(list(texts))
    t.what = name
    t.folder.mkdir(parents=True, exist_ok=True)
    file = t.folder / "odd.yaml"
    file.write_bytes(texts[name].encode("latin-1" if name == "Latin-1" else "utf-8"))
    command = t.rng.choice(["train", "train", "study"])
    t.what += f", {command}"
    words = [command, str(file), *(["--list"] if command == "study" else ["--run-folder", str(t.run)])]
    done = Call(words, t.folder, patience=40, before=[address_space(4096)]).run()
    require(not canary.exists(), "code was run")
    require_refusal(done, t.what)


# ------------------------------------------------------------------------------- kinds: names, code, and size


ESCAPE = "\x1b]0;attacked\x07"
HOSTILE = [
    "[red]a[/red]",
    "[/bold]",
    "[bold",
    f"{ESCAPE}a",
    "a\x1b[2Jb",
    "a\nforged: all is well",
    "a\rforged: all is well",
    "shard-{000..001}",
    "{x}",
    "{0}",
    "%s%d%n",
    "\u202egnp",
    "\u009b2J",
    "a\x08b",
    "\\x1b[31m",
    "a" * 120,
    "$(touch canary)",
    "<script>alert(1)</script>",
    "é\udcff",
    "-rf",
    "=cmd|' /C calc'!A0",
]


@kind("name", "names are text on a terminal: no crash, no control character, no line of their own", turns=3)
def attack_name(t: Try) -> None:
    """Give pictures, captions, groups, lists, splits and folders names that a terminal or a formatter would obey."""
    name = t.pick(HOSTILE)
    data = t.own_data()
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    where = t.rng.choice(["missing picture", "picture", "caption", "group", "list", "split", "run folder", "shards"])
    command = t.rng.choice(["train", "doctor", "train"])
    run = t.run
    for row in t.rng.sample(rows, 3):
        if where == "missing picture":
            row["image"] = f"{name}.png"
        elif where == "picture":
            with contextlib.suppress(OSError, ValueError):
                shutil.copy(data.with_name(row["image"]), data.parent / f"{row['group']}{name}.png".replace("/", ":"))
                row["image"] = f"{row['group']}{name}.png".replace("/", ":")
        elif where in ("caption", "group", "split"):
            row["captions" if where == "caption" else where] = [name] * 2 if where == "caption" else name
    if where == "list":
        data = data.with_name(f"{name.replace('/', ':')}.jsonl")
    if where == "run folder":
        run, command = t.folder / f"r{name.replace('/', ':')}", "train"
    if where == "shards":
        data, command = _shards(data.parent, rows), "train"
    else:
        data.write_text("\n".join(map(json.dumps, rows)))
    t.what = f"{where}: {name!r}, {command}"
    more = {"data__max_bad_fraction": 0.5, "loop__epochs": 1}
    if command == "train":
        recipe = t.world.recipe("plain", **more)
        words = ["train", str(recipe), "--data.sources", json.dumps([str(data)]), "--run-folder", str(run)]
    else:
        words = ["doctor", str(data)]
    done = Call(words, t.folder, terminal=True, environment={"TERM": "xterm-256color"}).run()
    shown = done.out
    require(done.status in (0, 2), f"status {done.status}: {done.last[-160:]}")
    if where != "shards":
        require("\x1b]0;" not in shown and "\x1b[2J" not in shown and "\u009b" not in shown, "control characters shown")
        require(not re.search(r"[\n\r]forged: ", shown), "a line of its own")
        require("\x08" not in shown and "\u202e" not in shown, "control characters shown")
    require(not (t.folder / "canary").exists(), "code was run")
    if where in ("shards", "list", "run folder") and "\x1b" not in name:
        require(done.status == 0 or "\ud800" < name[-1:] < "\udfff", f"refused: {done.last[-160:]}")


def _shards(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """The drawings in two tars; returns the pattern of both."""
    import tarfile

    for number in range(2):
        with tarfile.open(folder / f"shard-{number:03}.tar", "w") as tar:
            for place, row in enumerate(rows[number::2]):
                text = row["captions"][0].encode()
                tar.add(folder / row["image"], f"{row['split']}/{place:03}.png")
                member = tarfile.TarInfo(f"{row['split']}/{place:03}.txt")
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text))
    return folder / "shard-{000..001}.tar"


class _Canary:
    """Leaves a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch '{self.file}'",))


@kind("code", "nothing is unpickled, no code of a checkpoint is run, and nobody is asked whether it may", turns=3)
def attack_code(t: Try) -> None:
    """Pickles and modules of their own in the files and folders that a command takes as a model."""
    import pickle

    canary = t.folder / "canary"
    t.folder.mkdir(parents=True, exist_ok=True)
    way = t.pick(["module", "pickle", "module", "pickled weights", "tokenizer module"])
    if way == "pickle":
        file = t.folder / f"model.{t.rng.choice(['pt', 'pth', 'bin', 'ckpt', 'npy', 'pkl'])}"
        file.write_bytes(pickle.dumps({"model": _Canary(canary)}))
        where = str(file)
    else:
        source = t.rng.choice([t.world.clip, t.world.bert])
        shutil.copytree(source, t.folder / "model")
        where = str(t.folder / "model")
        if way == "pickled weights":
            (t.folder / "model" / "model.safetensors").unlink()
            (t.folder / "model" / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": _Canary(canary)}))
        else:
            (t.folder / "model" / "own.py").write_text(f"import os\nos.system('touch {canary}')\nclass Own: pass\n")
            name = "tokenizer_config.json" if way == "tokenizer module" else "config.json"
            config = json.loads((t.folder / "model" / name).read_text())
            config["model_type"] = t.rng.choice(["own", config.get("model_type", "own")])
            parts = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor")
            config["auto_map"] = {
                part: ["own.Own", "own.Own"] if part == "AutoTokenizer" else "own.Own" for part in parts
            }
            (t.folder / "model" / name).write_text(json.dumps(config))
    csv, data, out = str(t.world.csv), str(t.world.data), str(t.folder / "out")
    plain = ["train", str(t.world.recipe("plain", loop__epochs=1)), "--run-folder", out]
    calls = {
        "checkpoint": [
            *["train", "clip", csv, "--model.checkpoint", where, "--run-folder", out],
            *["--loop.epochs", "1"],
        ],
        "image_checkpoint": [*plain, "--model.image_checkpoint", where],
        "text_checkpoint": [*plain, "--model.text_checkpoint", where],
        "tokenizer": [*plain, "--text.tokenizer", where],
        "evaluate": ["evaluate", where, "--data", data],
        "embed": ["embed", where, csv, "--output", f"{out}.parquet"],
        "mine --model": ["mine", csv, "--model", where, "--text-encoder", str(t.world.bert), "--run-folder", out],
        "mine --text-encoder": [
            "mine",
            csv,
            "--model",
            str(t.world.clip),
            "--text-encoder",
            where,
            "--run-folder",
            out,
        ],
        "mine --image-encoder": [
            "mine",
            csv,
            "--image-encoder",
            where,
            "--text-encoder",
            str(t.world.bert),
            "--run-folder",
            out,
        ],
        "convert": ["convert", where, out],
        "search": ["search", str(t.world.clip), where, "a red square"],
    }
    name = t.rng.choice(list(calls))
    t.what = f"{way}, {name}"
    done = Call(calls[name], t.folder, terminal=True, typed=b"y\ny\ny\n", patience=90).run()
    require(not canary.exists(), "code was run")
    require("[y/N]" not in done.out and "trust_remote_code=True" not in done.out, "it asks whether code may be run")
    require(done.status in (0, 2), f"status {done.status}: {done.last[-160:]}")


@kind("size", "a file that unfolds to gigabytes is one line or a row left out, within a gigabyte more", turns=2)
def attack_size(t: Try) -> None:
    """Small files whose pictures, columns or texts are huge once they are read."""
    way = t.pick(
        ["16-bit PNG", "parquet text", "PNG text", "many pixels", "parquet pictures", "long line", "JSON depth"]
    )
    t.what = way
    data = t.own_data()
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    picture = data.with_name(rows[1]["image"])
    if way == "16-bit PNG":  # below the cap of 89 million pixels
        picture.write_bytes(blank_png(9_400, 9_400, depth=16, colour=6))
    elif way == "many pixels":
        picture.write_bytes(blank_png(60_000, 60_000, depth=8, colour=2, rows=64))
    elif way == "PNG text":
        text = b"Comment\0\0" + zlib.compress(bytes(2**29), 9)
        png = picture.read_bytes()
        picture.write_bytes(png[:33] + chunk(b"zTXt", text) + png[33:])
    elif way == "long line":
        rows[1]["captions"] = ["word " * 20_000_000]
    elif way.startswith("parquet"):
        data = _parquet_bomb(data.with_name("bomb.parquet"), way)
    if way == "JSON depth":
        data = data.with_name("deep.json")
        data.write_text('[{"image": ' + "[" * 200_000 + "]" * 200_000 + "}]")
    elif data.suffix == ".jsonl":
        data.write_text("\n".join(map(json.dumps, rows)))
    command = t.rng.choice(["doctor", "train"])
    t.what += f", {command}"
    recipe = t.world.recipe("plain", data=data, loop__epochs=1, data__max_bad_fraction=0.5)
    words = ["doctor", str(data)] if command == "doctor" else ["train", str(recipe), "--run-folder", str(t.run)]
    done = Call(words, t.folder, before=[address_space(1024)]).run()
    require(done.status in (0, 2), f"status {done.status}: {done.last[-160:]}")
    require(done.status == 0 or "truepair: " in done.err, f"no line: {done.last[-160:]}")


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def blank_png(width: int, height: int, *, depth: int, colour: int, rows: int | None = None) -> bytes:
    """A black picture of so many pixels in a file of kilobytes.

    Args:
        width: in pixels.
        height: in pixels.
        depth: bits a channel.
        colour: PNG's number of the channels: 2 for RGB, 6 for RGBA.
        rows: how many are in the file; all by default.
    """
    line = bytes(1 + width * {2: 3, 6: 4}[colour] * depth // 8)
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(line) for _ in range(height if rows is None else rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _parquet_bomb(file: Path, way: str) -> Path:
    """A column of one long value, many times by reference: kilobytes in the file, gigabytes once it is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 64
    long = "a" * 50_000_000 if way == "parquet text" else None
    same = pa.array([0] * rows, pa.int32())
    captions = pa.DictionaryArray.from_arrays(same, [long or "a red square"])
    pictures = pa.DictionaryArray.from_arrays(same, [b"\x89PNG" + bytes(50_000_000)])
    image = pictures if long is None else pa.array(["red-small-0.png"] * rows)
    pq.write_table(pa.table({"image": image, "caption": captions}), file, compression="zstd")
    return file


# ----------------------------------------------------------------------------------------------- counting


@dataclass
class Report:
    """What came of the tries.

    Attributes:
        counts: by kind and outcome.
        tries: each: kind, number, outcome, what was done, why it ended so, seconds.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    tries: list[dict[str, Any]] = field(default_factory=list)

    def add(self, one: Kind, number: int, outcome: str, what: str, why: str, seconds: float) -> None:
        """Count a try; of one that was survived, the reason is how its last command ended."""
        self.counts.setdefault(one.name, Counter())[outcome] += 1
        record = {"kind": one.name, "number": number, "outcome": outcome, "what": what, "why": why}
        self.tries.append(record | {"seconds": round(seconds, 2)})

    def table(self) -> str:
        """The counts as Markdown."""
        heads = ["kind", "tries", *OUTCOMES]
        lines = ["| " + " | ".join(heads) + " |", "| --- |" + " --: |" * (len(heads) - 1)]
        total: Counter[str] = Counter()
        for name, counts in self.counts.items():
            total += counts
            lines.append(_row(name, counts))
        return "\n".join([*lines, _row("**all**", total)])

    def reasons(self) -> str:
        """What was not survived, as a Markdown list: the same reason once, with how often."""
        groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for one in self.tries:
            if one["outcome"] != "survived":
                reason = re.sub(r"/\S+", "PATH", re.sub(r"\d[\d,.]*", "N", one["why"]))[:80]
                groups.setdefault((one["kind"], one["outcome"], reason), []).append(one)
        lines = []
        for (name, outcome, _), ones in groups.items():
            first = ones[0]
            text = " ".join(f"{first['what']}: {first['why']}".split()).replace("|", "/")
            numbers = ", ".join(str(one["number"]) for one in ones[:6])
            lines.append(f"* {name}, {outcome}, {len(ones)} (number {numbers}): `{printable(text)[:260]}`")
        return "\n".join(lines)


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(letter if letter.isprintable() and letter != "`" else "?" for letter in text)


def _row(name: str, counts: Counter[str]) -> str:
    numbers = [sum(counts.values()), *(counts[outcome] for outcome in OUTCOMES)]
    return "| " + " | ".join([name, *(str(number) for number in numbers)]) + " |"


def attempt(
    one: Kind, number: int, seed: int, world: World, folder: Path, report: Report, *, keep: bool = False
) -> str:
    """Make one try, and count it.

    Returns:
        How it ended.
    """
    own = folder / f"{one.name}-{number}"
    t = Try(world, own, random.Random(f"{seed}/{one.name}/{number}"), number, shuffle=f"{seed}/{one.name}")
    own.mkdir(parents=True)
    started = time.monotonic()
    outcome, why = "survived", ""
    try:
        one.attack(t)
        why = Machine.last
    except Fault as fault:
        outcome, why = fault.outcome, str(fault)
    except Exception as fault:  # of the attack itself
        outcome, why = "own fault", f"{type(fault).__name__}: {fault}"
        traceback.print_exc()
    why = why.replace(str(folder), "").replace(str(world.folder), "")
    what = t.what.replace(str(folder), "").replace(str(world.folder), "")
    report.add(one, number, outcome, what, why, time.monotonic() - started)
    if not keep:
        shutil.rmtree(own, ignore_errors=True)
    return outcome


def prepare(source: str | None, folder: Path, *, cold: bool = False) -> World:
    """Set this process up to fork commands: where caches go, no network, one thread; and import the commands.

    Args:
        source: the folder that holds the package; the installed one when absent.
        folder: where all is made.
        cold: start a Python for each command, and import nothing here.
    """
    home = folder / "home"
    home.mkdir(parents=True)
    os.environ.update(
        HOME=str(home),
        XDG_CACHE_HOME=str(home / "cache"),
        HF_HOME=str(home / "hf"),
        HF_HUB_OFFLINE="1",
        OMP_NUM_THREADS="1",
        TOKENIZERS_PARALLELISM="false",
        PYTHONDONTWRITEBYTECODE="1",
        COLUMNS="200",
    )
    if source is not None:
        os.environ["PYTHONPATH"] = source
        sys.path.insert(0, source)
    if not cold:
        import importlib

        import torch

        torch.set_num_threads(1)
        modules = ("tasks.pretraining", "tasks.mining", "tasks.unlabelled", "tasks.retriever", "tasks.embedding")
        for name in (*modules, "cli.tables", "cli.doctor", "cli.mine", "cli.train", "cli.review", "cli.evaluate"):
            importlib.import_module(f"truepair.{name}")
    Machine.open(folder, cold)
    return World(folder / "world")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0, help="no try begins later (default: 25)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=[(one, None) for one in KINDS.values()],
        type=_kind,
        metavar="KIND[:TRIES]",
        help=f"of {', '.join(KINDS)}; most tries of each (default: all kinds, as many as the time allows)",
    )
    parser.add_argument("--only", type=int, help="the try of this number alone")
    parser.add_argument("--python", help="another interpreter, with what the commands need")
    parser.add_argument(
        "--source", help="folder that holds the package, src of a checkout (default: the installed one)"
    )
    parser.add_argument("--folder", type=Path, help="where to work; kept (default: a temporary one, removed)")
    parser.add_argument("--keep", action="store_true", help="leave the folders of the tries; with --folder")
    parser.add_argument("--cold", action="store_true", help="start a Python for each command")
    parser.add_argument("--output", type=Path, help="counts and tries as JSON")
    parser.add_argument("--page", type=Path, help="the table and what was not survived, as Markdown")
    return parser.parse_args(words)


def _kind(word: str) -> tuple[Kind, int | None]:
    """A kind and the most tries of it."""
    name, _, tries = word.partition(":")
    if name not in KINDS or (tries and not tries.isdigit()):
        raise argparse.ArgumentTypeError(f"{word}: no kind, or kind:tries, of {', '.join(KINDS)}")
    return KINDS[name], int(tries) if tries else None


def main() -> int:
    """Attack until the time is over, and print the table."""
    options = parse()
    if options.python is not None and Path(options.python).absolute() != Path(sys.executable).absolute():
        words = sys.argv[1:]
        place = next(k for k, word in enumerate(words) if word.startswith("--python"))
        del words[place : place + (1 if "=" in words[place] else 2)]
        os.execv(options.python, [options.python, __file__, *words])
    output = {
        name: None if path is None else path.absolute()
        for name, path in (("json", options.output), ("page", options.page))
    }
    source = None if options.source is None else str(Path(options.source).resolve())
    with contextlib.ExitStack() as stack:
        if options.folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attack-"))).resolve()
        else:
            folder = options.folder.resolve()
        report = Report()
        started = time.monotonic()
        world = prepare(source, folder / "work", cold=options.cold)
        print(f"attacking {package()}", file=sys.stderr)
        rounds = [(one, _numbers(options.only, most)) for one, most in options.kinds]
        for one, number in _in_turn(rounds):
            if time.monotonic() - started > 60 * options.minutes:
                break
            outcome = attempt(one, number, options.seed, world, folder / "work" / "tries", report, keep=options.keep)
            last = report.tries[-1]
            line = f"{one.name} {number}: {outcome}, {last['seconds']} s; {last['what']} | {last['why']}"
            print(printable(line)[:400], file=sys.stderr, flush=True)
        minutes = (time.monotonic() - started) / 60
    title = f"Seed {options.seed}, {minutes:.0f} minutes, {platform.python_version()} on {platform.system()}"
    print(report.table())
    if output["page"] is not None:
        output["page"].write_text(f"{title}\n\n{report.table()}\n\n{report.reasons()}\n", encoding="utf-8")
    if output["json"] is not None:
        counts = {name: dict(found) for name, found in report.counts.items()}
        facts = {"seed": options.seed, "minutes": round(minutes, 1), "counts": counts, "tries": report.tries}
        output["json"].write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return 3 if any(found["own fault"] for found in report.counts.values()) else 0


def _numbers(only: int | None, most: int | None) -> Iterator[int]:
    """The numbers of the tries of a kind."""
    return iter([only]) if only is not None else itertools.count() if most is None else iter(range(most))


def _in_turn(rounds: list[tuple[Kind, Iterator[int]]]) -> Iterator[tuple[Kind, int]]:
    """One try of each kind after the other, or as many as the kind takes in a turn, until all have had theirs."""
    while rounds:
        for one, numbers in rounds[:]:
            turn = list(itertools.islice(numbers, one.turns))
            if not turn:
                rounds.remove((one, numbers))
            yield from ((one, number) for number in turn)


def package() -> str:
    """Where the attacked package lies."""
    import importlib.util

    spec = importlib.util.find_spec("truepair")
    return "nothing" if spec is None else str(spec.origin)


if __name__ == "__main__":
    sys.exit(main())
