"""Arrow files of sources that were read before, found again by what they were read from."""

import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from datasets import Dataset

from truepair.data.formats.record import Reader
from truepair.data.source import SourceConfig
from truepair.data.store.build import write_rows
from truepair.data.store.finish import finish_rows
from truepair.errors import DataError

# Raise it when the meaning of the rows changes, so that older files are not read.
_VERSION = 2
_NOT_IN_KEY = ("source", "name", "split", "cache_dir")

Left = list[tuple[str, str]]


def cached_rows(reader: Reader, config: SourceConfig) -> tuple[Dataset, Left]:
    """Memory-map the rows of a source; read the source first if that has not been done, or if its files have changed.

    Returns:
        The rows, and what was left out as (where, why).

    Raises:
        DataError: the source cannot be read, or the cache folder cannot be written.
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", config.path.stem)[:40]
    folder = config.cache_folder / f"{readable}-{_key(reader, config)}"
    if not folder.is_dir():
        _build(reader, config, folder)
    rows = Dataset.from_file(str(folder / "rows.arrow"))
    empty = [name for name in ("group", "family", "names") if rows.data.column(name).null_count == len(rows)]
    left = json.loads((folder / "skipped.json").read_text(encoding="utf-8"))
    return rows.remove_columns(empty), [(where, why) for where, why in left]


def _build(reader: Reader, config: SourceConfig, folder: Path) -> None:
    """Write the files aside and rename the folder, so that a half-written one is never read."""
    try:
        config.cache_folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix="building-", dir=config.cache_folder))
    except OSError as error:
        raise DataError(
            f"the cache folder {config.cache_folder} cannot be written ({error.strerror}); give cache_dir"
        ) from None
    try:
        skips = write_rows(reader, config, aside / "rows.arrow")
        finish_rows(aside / "rows.arrow", merge=config.repeats == "merge", skips=skips)
        (aside / "skipped.json").write_text(json.dumps(skips.entries), encoding="utf-8")
        try:
            aside.rename(folder)
        except OSError:
            # Another process was first: its files are the same.
            if not folder.is_dir():
                raise
    except OSError as error:
        raise DataError(f"{config.source} cannot be read into {folder} ({error}); check both") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _key(reader: Reader, config: SourceConfig) -> str:
    options = {name: value for name, value in asdict(config).items() if name not in _NOT_IN_KEY}
    stats = [(str(file.absolute()), file.stat()) for file in reader.files]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    content = json.dumps([_VERSION, type(reader).__name__, reader.version, options, files], sort_keys=True)
    return hashlib.blake2b(content.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
