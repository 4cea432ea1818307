"""``truepair doctor SOURCE [SOURCE ...]``: what is wrong with pairs, before anything is trained on them."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from truepair.cli.arguments import read_fields
from truepair.cli.fields import RecipeClass
from truepair.cli.options import CommandParser
from truepair.cli.run_folder import quiet_libraries, say
from truepair.display import show
from truepair.errors import ConfigError

if TYPE_CHECKING:
    from truepair.tasks.doctor.config import DoctorConfig

DOCTOR: "RecipeClass[DoctorConfig]" = RecipeClass("truepair.tasks.doctor.config", "DoctorConfig")

DESCRIPTION = """Examines the pairs of a SOURCE (any format; several are taken together, as for training): files that
are missing or cannot be read, pictures and captions that are the same under several names or in several splits,
captions that say nothing or that the tokenizer cuts, and how many false negatives a batch holds. Changes none of it.

'truepair doctor pairs.csv --page doctor.html --fix clean.jsonl'; docs/doctor.md says what each finding means."""


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no source is given, or an option is wrong.
    """
    parser = CommandParser(
        "truepair doctor", DOCTOR.section, usage="SOURCE [SOURCE ...] [options]", description=DESCRIPTION
    )
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="a file, a folder, or a name on the hub")
    parser.option("json", metavar="FILE", help="write all that was found")
    parser.option("page", metavar="FILE", help="write a page with pictures, one HTML file")
    parser.option("fix", metavar="OUT", help="write a clean list, OUT.jsonl, and say what it leaves out")
    parser.option("no-pictures", action="store_true", help="open no pictures: quick, for lists of millions of rows")
    call = parser.read_or_help(words)
    stated = list(call.stated)
    if call.sources:
        if any(name == "data.sources" for name, _ in stated):
            raise ConfigError(f"{call.sources[0]} and --data.sources both name the pairs; give one of them")
        stated.insert(0, ("data.sources", json.dumps(call.sources)))
    elif not any(name.startswith("data.") for name, _ in stated):
        raise ConfigError("give the pairs: truepair doctor pairs.csv [--page doctor.html]")
    if call.no_pictures:
        stated.append(("pictures", "false"))
    config = read_fields(DOCTOR, [], stated, command="truepair doctor")
    quiet_libraries()

    from truepair.cli.tables import doctor_table
    from truepair.engine.logs.progress import counting
    from truepair.files import write_json
    from truepair.reports.doctor import write_doctor_page
    from truepair.tasks.doctor.clean import require_new_list, write_clean
    from truepair.tasks.doctor.config import named_sources
    from truepair.tasks.doctor.examine import diagnose

    clean = None if call.fix is None else require_new_list(call.fix, named_sources(config.data))
    diagnosis, patient = diagnose(config, say, counting)
    show(doctor_table(diagnosis))
    if diagnosis.found and call.json is None and call.page is None:
        say("each case: --page FILE, with pictures, or --json FILE")
    if call.json is not None:
        write_json(Path(call.json), diagnosis.as_dict())
        say(f"all that was found: {call.json}")
    if call.page is not None:
        page = write_doctor_page(diagnosis, Path(call.page), command=shlex.join(["truepair", "doctor", *words]))
        say(f"the page with the pictures: {page}")
    if clean is not None:
        cleaned = write_clean(patient, clean)
        say(f"the clean list: {cleaned.path}, {cleaned.rows:,} rows with {cleaned.captions:,} captions")
        for why, times in cleaned.reasons.items():
            say(f"  {times:,} x {why}")
        for line in cleaned.notes:
            say(f"  {line}")
        if cleaned.reasons:
            say(f"  each of them: {cleaned.left_out}")
