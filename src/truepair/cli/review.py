"""``truepair review FOLDER``: people say of what was mined whether it matches, and a judge learns from it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truepair.cli.importing import importing
from truepair.cli.options import CommandParser
from truepair.cli.run_folder import say
from truepair.errors import ConfigError

if TYPE_CHECKING:
    from truepair.review.session import ReviewSession

DESCRIPTION = """Opens a page that shows what 'truepair mine' found, and asks: is this caption true of this picture? A
judge learns from the answers, and a random sample of them states a precision (--precision). At the end the verdicts are
in FOLDER/ledger, which 'truepair train' takes. With --answers, answers come from a file and no page is opened."""


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no folder is given, or a number is out of range.
    """
    parser = CommandParser("truepair review", usage="FOLDER [options]", description=DESCRIPTION)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="what 'truepair mine' wrote")
    parser.option("precision", metavar="P", type=_share, help="state that at least this share matches: 0.9")
    parser.option("answers", metavar="FILE", type=Path, help="JSONL, CSV or Label Studio's JSON; no page is opened")
    parser.option("seed", metavar="N", type=int, default=0, help="of what is asked (default: 0)")
    parser.option("port", metavar="PORT", type=int, help="where the page is served (default: one of the folder's own)")
    parser.option("no-browser", action="store_true", help="print the page's address, and open no browser")
    call = parser.read_or_help(words)
    if call.folder is None:
        raise ConfigError("give the folder that truepair mine wrote: truepair review runs/mined")

    with importing():
        from truepair.review.session import ReviewSession

    with ReviewSession(call.folder, precision=call.precision, seed=call.seed, say=say) as session:
        if call.answers is None:
            _serve(session, call.port, browser=not call.no_browser)
        else:
            session.replay(call.answers, call.precision)
            _print_state(session.state(""))
        answers = session.state("")["answers"]
        if not answers["yes"] + answers["same_picture"] + answers["no"]:
            say("nobody has said yes or no to any pair; the ledger stays as truepair mine wrote it")
            return
        stands = session.finish()
    certificate = stands.certificate
    if certificate is None:
        say("no precision is stated; the page's button, or --precision 0.9, draws a random sample for it")
    else:
        say(certificate.sentence())
    ledger = call.folder / "ledger"
    where = "" if ledger == Path("runs/mined/ledger") else f" (its rules must name {ledger})"
    say(f"next: truepair train clip PAIRS mined{where}")


def _serve(session: "ReviewSession", port: int | None, *, browser: bool) -> None:
    from truepair.mining.pictures import open_pictures
    from truepair.review.server import serve

    serve(session, open_pictures(session.folder), session.folder, say, port=port, browser=browser)


def _print_state(state: dict[str, Any]) -> None:
    """The state for the terminal."""
    kinds = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in state["answers"].items() if count)
    say(f"answers: {kinds or 'none'}; {state['matches']:,} pairs match by them")
    precision = state["average_precision"]
    if precision is None:
        say("average precision: known after 20 answers with 3 matches among them")
    else:
        say(
            f"average precision on held-back answers: {precision['value']:.3f} "
            f"({precision['low']:.3f} to {precision['high']:.3f}, {precision['answers']:,} answers)"
        )
    if state["more"] is not None:
        more = state["more"]
        say(f"{more['answers']} more answers should bring about {more['average_precision']:.3f}")
    for each in state["expected"]:
        say(f"expected at a precision of {each['precision']:.0%}: {each['pairs']:,} unjudged pairs")
    both = state["agreement"]
    if both is not None:
        kappa = "" if both["kappa"] is None else f", Cohen's kappa {both['kappa']:.2f}"
        say(f"people agree on {both['agreed']:,} of {both['pairs']:,} pairs that several judged{kappa}")
    certificate = state["certificate"]
    if certificate is not None:
        said = certificate["sentence"]
        asked = f"{certificate['asked']} of {certificate['of']} pairs of the random sample are answered"
        say(f"certificate: {said}" if said else f"certificate: {asked}; the page asks the others")


def _share(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"is {word!r}; give a share between 0 and 1, such as 0.9")
    return value
