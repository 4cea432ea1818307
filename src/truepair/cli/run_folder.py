"""What the commands that read a recipe have in common: how they open, what a run folder keeps, and how they speak."""

import argparse
import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar

import yaml

from truepair import display
from truepair.cli.arguments import bundled_recipes, find_recipe, lay_recipe, read_fields, read_layers, to_yaml
from truepair.cli.fields import RecipeClass
from truepair.cli.importing import importing
from truepair.cli.options import CommandParser
from truepair.engine.distributed.launch import is_first_process, telling_lost_processes
from truepair.errors import ConfigError, MadeAgain, TruepairError
from truepair.files import writing_file

if TYPE_CHECKING:
    from truepair.data.splits import DataConfig
    from truepair.methods.recipe import PretrainRecipe

_Recipe = TypeVar("_Recipe")

PRETRAIN: "RecipeClass[PretrainRecipe]" = RecipeClass("truepair.methods.recipe", "PretrainRecipe")

RECIPE = "recipe.yaml"

_SUM = b"# sha256 of what follows: "  # how a recipe begins that a run has kept


@dataclass(frozen=True)
class Opening(Generic[_Recipe]):
    """A recipe and where its results go.

    Attributes:
        recipe: with the fields of the command line.
        title: command and recipes, as they were called.
        folder: the run folder.
        options: the command's own options.
    """

    recipe: _Recipe
    title: str
    folder: Path
    options: argparse.Namespace = field(default_factory=argparse.Namespace, compare=False)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Hold the run folder, and keep the recipe in it; if it is refused there, the one before is put back.

        Raises:
            ConfigError: the folder cannot be written, is held by another run, or holds a run of other settings.
            TruepairError: another process of the run has ended.
        """
        if not is_first_process():
            with telling_lost_processes():
                yield
            return
        with self.held():
            before = keep_recipe(self.recipe, self.folder)
            try:
                with telling_lost_processes():
                    yield
            except TruepairError:
                if before is not None:
                    with contextlib.suppress(OSError), writing_file(self.folder / RECIPE, error=None) as file:
                        file.write(before)  # what was refused is what is told
                raise

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run folder: no other run writes into it meanwhile. Of several processes the first holds it.

        Raises:
            ConfigError: it cannot be written, or is held by another run.
        """
        from truepair.engine.state.lock import holding

        with holding(self.folder, say) if is_first_process() else nullcontext():
            yield


class RecipeCommand(Generic[_Recipe]):
    """A command that is called with recipes and fields: ``truepair COMMAND RECIPE [RECIPE ...] [--any.field value]``.

    Args:
        prog: the words that lead to it.
        kind: the dataclass of its recipe; imported when all names are known, since that takes seconds.
        description: what it does.
        task: whose bundled recipes are meant; those of pre-training when empty.
        folder: the run folder where no option names one; ``runs/`` and the names of task and recipes when empty.
        sources: the field that words take the place of which are no recipes; empty where there is none.
        alone: sources are enough, without a recipe.
    """

    def __init__(
        self,
        prog: str,
        kind: RecipeClass[_Recipe],
        description: str,
        *,
        task: str = "",
        folder: str = "",
        sources: str = "",
        alone: bool = False,
    ) -> None:
        self.kind = kind
        self.alone = alone
        self.task = task
        self.folder = folder
        self.sources = sources
        named = "[RECIPE ...]" if alone else "RECIPE [RECIPE ...]"
        usage = f"{named} {'[SOURCE ...] ' if sources else ''}[options] [--any.field value ...]"
        more = f"'{prog} RECIPE --help' lists every field of a recipe."
        self.parser = CommandParser(prog, kind.section, usage=usage, description=f"{description}\n\n{more}")
        self.parser.add_argument(
            "recipes",
            metavar="RECIPE",
            nargs="*",
            help="a YAML file, or the name of a bundled recipe; of several, each is laid over the ones before",
        )
        usual = folder or f"runs/{task + '-' if task else ''}RECIPE"
        self.parser.option("run-folder", metavar="FOLDER", help=f"where everything goes ({usual})")

    def open(self, words: Sequence[str]) -> Opening[_Recipe]:
        """Read the words after the command, and keep other libraries quiet.

        Raises:
            ConfigError: no recipe is given, or it cannot be used.
        """
        call = self.parser.read_or_help(words)
        prog = self.parser.prog
        if not call.recipes:
            first = "pairs or a recipe" if self.alone else "recipe"
            raise ConfigError(
                f"give the {first} first: {prog} {'PAIRS' if self.alone else 'RECIPE'} [--any.field value]"
            )
        pairs = [word for word in call.recipes if self.sources and self._names_pairs(word)]
        recipes = [word for word in call.recipes if word not in pairs]
        if not recipes and not self.alone:
            raise ConfigError(f"give a recipe beside {pairs[0]}: {prog} RECIPE {pairs[0]}; clip, for one")
        paths = [find_recipe(name, self.task) for name in recipes]
        if pairs and self.sources in dict(call.stated):
            raise ConfigError(f"{pairs[0]} and --{self.sources} both name the pairs; give one of them")
        if pairs:
            call.stated = [(self.sources, json.dumps(pairs)), *call.stated]
        usual = self.folder or "runs/" + "-".join([*filter(None, [self.task]), *(path.stem for path in paths)])
        title = f"{prog} {' '.join(call.recipes)}"
        recipe = read_fields(self.kind, paths, call.stated, command=title)
        quiet_libraries()
        return Opening(recipe, title, Path(call.run_folder or usual), call)

    def _names_pairs(self, word: str) -> bool:
        """Whether a word names pairs: a file or folder that is no YAML, a pattern of shards, or owner/name.

        The name of a bundled recipe is that recipe, even if a folder here has the same; that one is ``./name``.
        """
        path = Path(word)
        if path.suffix in (".yaml", ".yml") or word in bundled_recipes(self.task):
            return False
        return path.exists() or bool(path.suffix) or any(letter in word for letter in "*{/")


def keep_recipe(recipe: Any, folder: Path) -> bytes | None:
    """Write the recipe into a run folder.

    Returns:
        The recipe that was there before, as it was written; None if there was none.

    Raises:
        ConfigError: the folder cannot be written, or holds a run of other settings, which would go on as one of these,
            or pass for one.
    """
    file = folder / RECIPE
    try:
        before = file.read_bytes() if file.is_file() else None
        if before is not None:
            _require_same_run(folder, before, recipe)
        text = to_yaml(recipe).encode()
        with writing_file(file, error=None) as opened:
            opened.write(_SUM + hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be used ({error.strerror}); give another one") from error
    return before


def recipe_of_run(model: str) -> Path | None:
    """The recipe of the run that a model is of.

    Args:
        model: a run folder, its ``model``, or one of its checkpoints. A model by any other name is of no run.

    Returns:
        Its file; None where there is none.
    """
    folder = Path(model)
    if not folder.is_dir():
        return None
    places = [folder, *folder.absolute().parents[:2]]
    return next((place / RECIPE for place in places if (place / RECIPE).is_file()), None)


def data_of_run(model: str) -> "DataConfig | None":
    """The data of the run that a model is of; None where there is no such run.

    Raises:
        ConfigError: its recipe cannot be read.
    """
    layers = section_of_run(model, "data")
    if not layers:
        return None
    kind: RecipeClass[DataConfig] = RecipeClass("truepair.data.splits", "DataConfig")
    return lay_recipe(kind.load(), [(file, values.get("data", {})) for file, values in layers])


def section_of_run(model: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """A group of fields of the recipe of the run that a model is of; of the recipes that lie under it, as well.

    Returns:
        Files and their fields ``{name: ...}``, the lowest first; nothing where there is no such run.

    Raises:
        ConfigError: its recipe cannot be read.
    """
    file = recipe_of_run(model)
    if file is None:
        return []
    return [
        (str(layer), {key: value for key, value in values.items() if key == name})
        for layer, values in read_layers(file)
    ]


def say(line: str) -> None:
    """Print a line for people, once."""
    if is_first_process():
        display.say(line)


def quiet_libraries() -> None:
    """Keep transformers and datasets from drawing bars and printing what we report ourselves; their errors remain."""
    with importing():
        import datasets
        import huggingface_hub
        import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    huggingface_hub.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    warnings.showwarning = _show_warning
    # Of torch, twice an epoch, where there are fewer cores than loop.workers; of peft, about a name in transformers.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    # Of torch, on each rank, about an argument that the one named in its place does not stand for yet.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")


_show_usual_warning = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show what becomes of a cache as a line, in whichever process sees it first; other warnings as usual."""
    if issubclass(category, MadeAgain):
        display.say(str(message))
    else:
        _show_usual_warning(message, category, filename, lineno, file, line)


def _require_same_run(folder: Path, before: bytes, recipe: Any) -> None:
    """Compare what both recipes state; fields that only one has are of another version.

    Of a file that is not as the run wrote it the checkpoints say more, and the run itself compares when it goes on.
    """
    from truepair.engine.state.checkpoint import has_begun, notes_identity
    from truepair.engine.state.identity import require_same_settings
    from truepair.methods.settings import settings_of

    if not has_begun(folder):
        return
    stated = _as_written(before)
    if stated is None and not notes_identity(folder):
        raise ConfigError(
            f"{folder / RECIPE} is not as the run wrote it, and no checkpoint says which settings it had; restore it, "
            "or give another --run-folder"
        )
    if stated is None:
        say(f"{folder / RECIPE} is not as the run wrote it, and is written anew; its checkpoints say what it was")
        return
    (then, settled_then), (now, settled) = settings_of(stated), settings_of(recipe)
    require_same_settings(folder, then, now)
    if (folder / "model").exists():
        require_same_settings(folder, settled_then, settled)


def _as_written(kept: bytes) -> Mapping[str, Any] | None:
    """What a kept recipe states; None if it is not as the run wrote it, or no recipe."""
    first, _, rest = kept.partition(b"\n")
    if first.startswith(_SUM) and first.removeprefix(_SUM).decode(errors="replace") != hashlib.sha256(rest).hexdigest():
        return None
    try:
        stated = yaml.safe_load(kept)
    except (yaml.YAMLError, ValueError):
        return None
    return stated if isinstance(stated, Mapping) else None
