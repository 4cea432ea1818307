"""``truepair push RUN NAME``."""

from pathlib import Path

from truepair.cli.arguments import read_fields
from truepair.cli.options import CommandParser
from truepair.cli.run_folder import PRETRAIN, RECIPE, say
from truepair.display import visible
from truepair.errors import ConfigError

DESCRIPTION = """Uploads the model of RUN to the hub as NAME (owner/name), with its card: weights, config, tokenizer,
image processor. Checkpoints, states of the optimizer, logs and ledgers stay here. --dry-run shows the files and the
card, and asks nobody."""

CARD = "README.md"


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: a word is missing, or the hub refuses.
    """
    parser = CommandParser("truepair push", usage="RUN NAME [options]", description=DESCRIPTION)
    parser.add_argument("run", metavar="RUN", nargs="?", help="a run folder, or a model folder")
    parser.add_argument("name", metavar="NAME", nargs="?", help="owner/name on the hub")
    parser.option("private", action="store_true", help="only its owner may see it")
    parser.option("update", action="store_true", help="replace the files of a model that is there already")
    parser.option("dry-run", action="store_true", help="show the files and the card, and upload nothing")
    call = parser.read_or_help(words)
    if call.name is None:
        raise ConfigError("give the run and a name: truepair push RUN owner/name")

    from truepair.tasks.push import push, require_name, uploads

    require_name(call.name)
    folder = Path(call.run, "model") if Path(call.run, "model").is_dir() else Path(call.run)
    _write_card(folder)
    files = uploads(folder, say)
    for file in files:
        say(f"{_size(file.size):>10}  {file.path.name}")
    say(f"{_size(sum(file.size for file in files)):>10}  in {len(files)} files")
    if not (folder / CARD).is_file():
        say(f"there is no card: {folder / CARD}; without one nobody knows what the model is")
    if call.dry_run:
        if (folder / CARD).is_file():
            card = (folder / CARD).read_text(encoding="utf-8")
            print(visible(card, keep="\n\t"))
        say("nothing was uploaded: this was a dry run")
        return
    say(f"uploaded: {push(files, call.name, private=call.private, update=call.update)}")


def _write_card(folder: Path) -> None:
    """Write the card of a run that has none."""
    recipe = folder.parent / RECIPE
    if (folder / CARD).is_file() or not folder.is_dir() or not recipe.is_file():
        return
    from truepair.reports.card import write_card

    settings = read_fields(PRETRAIN, [recipe], [], command="truepair push")
    say(f"a card was written: {write_card(folder.parent, settings, command=f'truepair train {RECIPE}')}")


def _size(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.4g} GB"
