"""What a launcher starts in a test: the command, in processes that die of kill -9 at stated moments, one after another.

    mortal_command.py PLAN WORD ...

PLAN is a JSON file: the deaths in their order, each [rank, "module:name" of a function, which call of it in the life of
that process, whether after it]. Each is recorded beside it, so that the next attempt takes the next one.
"""

import json
import os
import sys
from pathlib import Path

from tests.engine.processes import Fault, threads_of_group
from truepair.cli.main import main


class RecordedFault(Fault):
    """A fault that leaves a mark before it happens."""

    def strike(self) -> None:
        """Let it happen."""
        with Path(os.environ["DEATHS"]).open("a", encoding="utf-8") as file:
            file.write("x")
        super().strike()


def arm(plan: Path) -> None:
    deaths = Path(os.environ.setdefault("DEATHS", str(plan.with_suffix(".deaths"))))
    before = len(deaths.read_text(encoding="utf-8")) if deaths.exists() else 0
    for rank, place, call, after in json.loads(plan.read_text(encoding="utf-8"))[before : before + 1]:
        if os.environ["RANK"] == str(rank):
            RecordedFault(place, call, after=after).arm()


if __name__ == "__main__":
    arm(Path(sys.argv[1]))
    main(sys.argv[2:])
    if left := threads_of_group():
        sys.exit(f"left when the command has ended: {left}")
