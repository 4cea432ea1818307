"""One way of writing: nothing is opened to write but by ``truepair.files``, or into a folder that it publishes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "truepair"

INTO_FOLDERS = {
    "data/preprocessing.py: OwnPreprocessing.save",
    "data/sample_tasks/vqa.py: _write_images",
    "engine/state/checkpoint.py: CheckpointStore.save",
    "engine/state/checkpoint.py: seal",
    "engine/state/snapshot.py: Snapshot.write",
    "engine/state/snapshot.py: save_optimizer",
    "methods/step.py: PretrainStep.save_state",
    "models/encoders/frozen.py: FrozenStates._overwrite",
    "models/dual/adapter.py: save_adapter",
    "models/dual/open_clip.py: OpenClipDualEncoder.save_pretrained",
    "models/fusion/blip.py: BlipPreprocessing.save",
    "models/fusion/blip2_files.py: write_weights",
    "models/fusion/language_adapter.py: save_language_adapter",
    "models/fusion/language_preprocessing.py: LanguagePreprocessing.save",
    "tasks/export/files.py: _Export._written_out",
    "tasks/export/files.py: _pairs",
    "tasks/export/files.py: _sentence_transformers",
}
"""Whose caller gives a folder that is aside, and published as a whole."""

GROWING = {
    "data/left_out.py: LeftOut._tell",
    "engine/logs/log.py: JsonlLog.__init__",
    "engine/logs/log.py: JsonlLog.rewind",
    "models/encoders/frozen.py: _Build._resume",
    "models/encoders/frozen.py: _Build.run",
    "review/answers.py: AnswerLog.__init__",
    "tasks/study/runner.py: do_run",
}
"""Logs, which only grow; a last line that was cut off is left out when they are read."""

TEMPORARY = {
    "models/checkpoints/open_clip.py: open_clip_of",
    "review/server.py: _Calls._import",
}
"""Into a folder that is gone when the function ends."""

MADE_ONCE = {
    "engine/state/lock.py: _Lock._write",
    "engine/state/lock.py: _Lock._write_in_place",
}
"""A file that may only be made if there is none, which the system sees to; one that was cut off holds nothing."""

PUBLISHERS = ("writing_file", "writing_folder", "writing_together")
WRITERS = ("write_text", "write_bytes", "save_file", "savez", "savefig", "to_parquet", "ParquetWriter")
OF_MODULES = ("np.save", "torch.save", "json.dump", "pq.write_table", "shutil.copy", "shutil.copy2", "shutil.copytree")


def writes(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name in OF_MODULES or (name in WRITERS and name != "write_text"):
        return True
    if isinstance(call.func, ast.Attribute) and call.func.attr in WRITERS:
        return True
    if name != "open" and not (isinstance(call.func, ast.Attribute) and call.func.attr == "open"):
        return False
    words = [*call.args, *(key.value for key in call.keywords if key.arg == "mode")]
    modes = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    return any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)


def outside(node: ast.AST, place: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    """Functions that write, and lines, but for what lies in a ``with`` of :mod:`truepair.files`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield from outside(child, (*place, child.name))
            continue
        if isinstance(child, ast.With) and any(
            publisher in ast.unparse(item) for item in child.items for publisher in PUBLISHERS
        ):
            continue
        if isinstance(child, ast.Call) and writes(child):
            yield ".".join(place), child.lineno
        yield from outside(child, place)


def found_in(text: str) -> list[tuple[str, int]]:
    return list(outside(ast.parse(text)))


def test_all_files_are_written_in_one_way() -> None:
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {place}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "files.py" or path.parent != ROOT
        for place, _ in found_in(path.read_text(encoding="utf-8"))
    }
    known = INTO_FOLDERS | GROWING | TEMPORARY | MADE_ONCE
    assert found - known == set(), "write by truepair.files: aside, synced, renamed, with one line where it fails"
    assert known - found == set(), "these write nothing any more"


@pytest.mark.parametrize(
    "line",
    [
        "open(name, 'w')",
        "path.open('wb')",
        "path.open(mode='a', encoding='utf-8')",
        "Path(name).write_text(text)",
        "(folder / name).write_bytes(data)",
        "np.save(path, array)",
        "json.dump(value, file)",
        "pq.write_table(table, path)",
        "save_file(tensors, path)",
        "shutil.copy2(one, other)",
    ],
)
def test_what_is_another_way(line: str) -> None:
    assert found_in(f"def write():\n    {line}") == [("write", 2)]
    assert found_in(f"def write():\n    with writing_file(path) as file:\n        {line}") == []


@pytest.mark.parametrize("line", ["open(name)", "path.open('rb')", "write_text(path, text)", "Image.open(name)"])
def test_what_is_none(line: str) -> None:
    assert found_in(line) == []
