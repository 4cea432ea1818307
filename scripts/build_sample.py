"""Build the bundled sample, `src/truepair/data/sample/emoji.parquet`, byte for byte from npm packages.

Needs npm, and the library versions that decide the bytes, on Linux x86-64 with Python 3.11:

    python -m venv /tmp/sample && /tmp/sample/bin/pip install -r scripts/sample-requirements.txt
    /tmp/sample/bin/python scripts/build_sample.py --check

With --check nothing is written: the file is built elsewhere and compared with the committed one.
"""

import argparse
import hashlib
import re
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from emoji_sample.sources import EMOJIBASE, VENDORS, Archive, SampleError, fetch

REQUIREMENTS = Path(__file__).with_name("sample-requirements.txt")
SAMPLE = Path(__file__).parents[1] / "src" / "truepair" / "data" / "sample" / "emoji.parquet"


def main() -> int:
    """Parse the command line, build, and say what was built; 0 means success."""
    parser = argparse.ArgumentParser(description="Build the bundled emoji sample, or check the committed one.")
    parser.add_argument("--check", action="store_true", help="compare a fresh build with the committed file")
    parser.add_argument("--out", type=Path, default=SAMPLE, help="file to write (default: the committed one)")
    parser.add_argument("--packages", type=Path, help="folder that keeps the npm archives (default: a temporary one)")
    options = parser.parse_args()
    try:
        tools = installed_tools(REQUIREMENTS.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as scratch:
            packages = options.packages or Path(scratch)
            packages.mkdir(parents=True, exist_ok=True)
            out = Path(scratch) / SAMPLE.name if options.check else options.out
            build(packages, tools, out)
            print(f"{out.name}: {out.stat().st_size} bytes, sha256 {sha256(out)}")
            if options.check:
                check(out, SAMPLE)
    except (SampleError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def installed_tools(requirements: str) -> dict[str, str]:
    """Return the pinned libraries and versions.

    Raises:
        SampleError: One of them is missing, or installed in another version.
    """
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", requirements, flags=re.MULTILINE))
    for name, pinned in pins.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "none"
        if found != pinned:
            raise SampleError(f"{name} {pinned} is needed, {found} is installed: pip install -r {REQUIREMENTS.name}")
    return pins


def build(packages: Path, tools: dict[str, str], out: Path) -> None:
    """Fetch the archives into `packages`, draw all concepts and write the Parquet file `out`."""
    # The drawing libraries can be imported only once installed_tools has found them.
    from emoji_sample import concepts, drawing, matching, table

    emojibase = fetch(EMOJIBASE, packages)
    archives: dict[str, Archive] = {name: fetch(vendor.package, packages) for name, vendor in VENDORS.items()}
    known = concepts.read_concepts(emojibase)
    sets = matching.read_icon_sets(archives)
    chosen = table.drawn_often(matching.match_icons(known, sets))
    drawings = {
        group: {vendor: drawing.draw(sets[vendor].data, icon) for vendor, icon in icons.items()}
        for group, icons in chosen.items()
    }
    table.write(table.rows(known, drawings), tools, out)


def check(built: Path, committed: Path) -> None:
    """Compare the two files, and the digest stated beside the committed one.

    Raises:
        SampleError: They differ, or the README beside the committed file states another digest.
    """
    digest = sha256(built)
    if sha256(committed) != digest:
        raise SampleError(f"{committed} differs from a fresh build: sha256 {sha256(committed)}")
    readme = committed.with_name("README.md")
    if digest not in readme.read_text(encoding="utf-8"):
        raise SampleError(f"{readme} does not state the sha256 of {committed.name}")
    print(f"{committed.name} is what a fresh build gives")


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of the file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
