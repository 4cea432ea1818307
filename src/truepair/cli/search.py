"""``truepair search MODEL VECTORS QUERY [QUERY ...]``."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from truepair.cli.importing import importing
from truepair.cli.options import CommandParser
from truepair.cli.run_folder import quiet_libraries, say
from truepair.display import show
from truepair.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from truepair.tasks.search import Answer, Search

DESCRIPTION = """Finds the pictures that are most like each QUERY, a text or the path of a picture, among the vectors
that 'truepair embed' wrote with the same MODEL. A picture need not be one of them."""

_SHOWN = 2  # captions of a picture in the table


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: a word is missing.
    """
    parser = CommandParser(
        "truepair search", usage="MODEL VECTORS QUERY [QUERY ...] [options]", description=DESCRIPTION
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="the model that made the vectors")
    parser.add_argument("vectors", metavar="VECTORS", nargs="?", help="what 'truepair embed' wrote")
    parser.add_argument("queries", metavar="QUERY", nargs="*", help="a text, or the path of a picture")
    parser.known["k"] = parser.add_argument("-k", "--k", type=int, default=10, help="hits of each query (default: 10)")
    look = "look for pictures or for captions (default: pictures, where there are any)"
    parser.option("what", choices=("images", "captions"), help=look)
    parser.option("page", metavar="FILE", help="write a page with the pictures, one HTML file")
    call = parser.read_or_help(words)
    if not call.queries:
        raise ConfigError(
            'give the model, the vectors and a query: truepair search MODEL vectors.parquet "a dog in snow"'
        )

    with importing():
        from truepair.tasks.search import search_vectors

    quiet_libraries()
    result = search_vectors(call.model, call.vectors, call.queries, say, k=call.k, what=call.what)
    for answer in result.answers:
        show(_table(answer, result))
    if call.page is not None:
        from truepair.reports.search import write_search_page

        page = write_search_page(result, Path(call.page), command=shlex.join(["truepair", "search", *words]))
        say(f"the page with the pictures: {page}")


def _table(answer: "Answer", result: "Search") -> "Table":
    """The hits of a query for the terminal."""
    from rich.table import Table

    from truepair.tasks.vectors import shown_path

    title = f"{answer.query}: the best of {result.among:,} {result.kind}s"
    table = Table(title=title, title_style="bold", title_justify="left")
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("path", overflow="fold", ratio=2)
    table.add_column("captions", overflow="fold", ratio=3)
    for rank, found in enumerate(answer.found, start=1):
        captions = found.about["captions"]
        more = f" (and {len(captions) - _SHOWN} more)" if len(captions) > _SHOWN else ""
        path = shown_path(found.about)
        texts = "; ".join(captions[:_SHOWN]) + more
        table.add_row(str(rank), f"{found.score:.3f}", _short(path), texts)
    return table


def _short(path: str) -> str:
    """A path as it is seen from here."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
