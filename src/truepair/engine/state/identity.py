"""What a run is of, as its checkpoints keep it: a run goes on with the same, or says what differs."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from truepair.errors import ConfigError


@dataclass(frozen=True)
class Identity:
    """What must be the same when a run goes on.

    Attributes:
        settings: dotted names of the fields that may not change, and their values, of JSON types.
        settled: those that may not change once the run has finished.
        contents: what the run reads, in words -> a fingerprint of it, wherever it lies.
        tools: what the run reads it with, in words -> its name and version.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    settled: Mapping[str, Any] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """It as JSON values."""
        return asdict(self)

    def require_same(
        self,
        run_folder: Path,
        then: Mapping[str, Any] | None,
        say: Callable[[str], None],
        *,
        finished: bool = False,
        accept: bool = False,
    ) -> None:
        """Refuse to go on with a run that is of something else. What only one of both has is of another version.

        Args:
            run_folder: for messages.
            then: what :meth:`state` gave when the checkpoint was written; None for one that does not say.
            say: prints a line.
            finished: the run has nothing left to do.
            accept: go on with other contents and tools all the same; a line says which.

        Raises:
            ConfigError: something differs.
        """
        if then is None:
            say(f"{run_folder} is of a version that did not note what a run reads; whether it is the same is not known")
            return
        require_same_settings(run_folder, then["settings"], self.settings)
        if finished:
            require_same_settings(run_folder, then["settled"], self.settled)
        changed = [name for name, now in self.contents.items() if then["contents"].get(name, now) != now]
        used = then.get("tools", {})
        changed += [f"{n} ({now}, then {used[n]})" for n, now in self.tools.items() if used.get(n, now) != now]
        if not changed:
            return
        said = f"{', '.join(changed)}: not what the run in {run_folder} began with"
        if not accept:
            raise ConfigError(
                f"{said}; give another --run-folder, bring back what it began with, or go on with what is there now: "
                "--loop.accept_changes true"
            )
        say(f"{said}; it goes on with what is there now (loop.accept_changes)")


def require_same_settings(run_folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of other settings. A field that only one of both has is of another version.

    Raises:
        ConfigError: a field differs.
    """
    for name in (name for name in now if name in then):
        if then[name] != now[name]:
            raise ConfigError(
                f"{run_folder} holds a run with {name} {then[name]}, now it is {now[name]}; give another --run-folder, "
                "or the old setting"
            )
