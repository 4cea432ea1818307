"""``truepair embed MODEL SOURCE --output FILE``."""

from typing import TYPE_CHECKING

from truepair.cli.arguments import read_fields
from truepair.cli.fields import RecipeClass
from truepair.cli.options import CommandParser
from truepair.cli.run_folder import quiet_libraries, say
from truepair.errors import ConfigError

if TYPE_CHECKING:
    from truepair.tasks.embedding import EmbedConfig

EMBED: "RecipeClass[EmbedConfig]" = RecipeClass("truepair.tasks.embedding", "EmbedConfig")

DESCRIPTION = """Writes a vector for every picture and caption of SOURCE (any format of pairs), with ids, paths and
captions beside it; docs/use.md lists the columns. MODEL is a run, a model folder, a name
on the hub, or a checkpoint file of another program ('truepair convert --help').

A command that was stopped goes on where it was when it is given again. Pictures that cannot be read are left out and
listed in a file beside the vectors."""


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: a model, a source or the output is missing.
    """
    parser = CommandParser(
        "truepair embed", EMBED.section, usage="MODEL SOURCE --output FILE [options]", description=DESCRIPTION
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a run, a model folder or file, or a name on the hub")
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="a file, a folder, or a name on the hub")
    call = parser.read_or_help(words)
    if call.source is None:
        raise ConfigError("give the model and the pairs: truepair embed MODEL SOURCE --output vectors.parquet")
    stated = [("data.source", call.source), *call.stated]
    config = read_fields(EMBED, [], stated, command="truepair embed")
    quiet_libraries()

    from truepair.engine.logs.progress import counting
    from truepair.tasks.embedding import embed

    embed(call.model, config, say, counting)
