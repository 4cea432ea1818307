import io
import json
import os
import tarfile

import pytest
from emoji_sample.sources import EMOJIBASE, VENDORS, Archive, Package, SampleError, fetch, integrity

EMPTY = "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="
PACKAGE = Package("@scope/empty", "1.0.0", EMPTY)


def write_archive(path, **files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(f"package/{name}.json")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def fake_npm(folder, monkeypatch, script):
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_integrity_is_npms_notation():
    assert integrity(b"") == EMPTY


def test_every_package_is_pinned():
    packages = [EMOJIBASE, *(vendor.package for vendor in VENDORS.values())]
    assert len({package.integrity for package in packages}) == len(packages) == 8
    assert all(len(package.integrity) == len(EMPTY) for package in packages)


def test_an_archive_that_is_there_already_is_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "scope-empty-1.0.0.tgz").touch()
    assert isinstance(fetch(PACKAGE, tmp_path), Archive)


def test_a_missing_archive_is_downloaded(tmp_path, monkeypatch):
    fake_npm(tmp_path, monkeypatch, 'test "$3" = @scope/empty@1.0.0 && touch scope-empty-1.0.0.tgz')
    assert isinstance(fetch(PACKAGE, tmp_path), Archive)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def test_another_archive_is_refused(tmp_path):
    (tmp_path / "scope-empty-1.0.0.tgz").write_bytes(b"tampered")
    with pytest.raises(SampleError) as error:
        fetch(PACKAGE, tmp_path)
    assert "is not the pinned package" in one_line(error)


def test_npm_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SampleError) as error:
        fetch(PACKAGE, tmp_path)
    assert "npm is not installed" in one_line(error)


def test_npm_fails(tmp_path, monkeypatch):
    fake_npm(tmp_path, monkeypatch, "echo first >&2; echo 'no such version' >&2; exit 1")
    with pytest.raises(SampleError) as error:
        fetch(PACKAGE, tmp_path)
    assert one_line(error) == "npm pack --silent @scope/empty@1.0.0 failed: no such version"


def test_npm_writes_nothing(tmp_path, monkeypatch):
    fake_npm(tmp_path, monkeypatch, "exit 0")
    with pytest.raises(SampleError) as error:
        fetch(PACKAGE, tmp_path)
    assert "did not write scope-empty-1.0.0.tgz" in one_line(error)


def test_read_json(tmp_path):
    write_archive(tmp_path / "a.tgz", icons={"prefix": "noto"})
    assert Archive(tmp_path / "a.tgz").read_json("icons.json") == {"prefix": "noto"}
    with pytest.raises(SampleError) as error:
        Archive(tmp_path / "a.tgz").read_json("chars.json")
    assert one_line(error) == "a.tgz holds no chars.json"
