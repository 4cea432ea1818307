"""What a page says of a run in words: its summary, and facts of data, model and machine."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from truepair.evaluation import DirectionMetrics
from truepair.reports.curves import Records
from truepair.reports.data import FactGroup
from truepair.reports.results import percent
from truepair.tasks.audit import Audit
from truepair.tasks.conversions import Conversions, rule_counts
from truepair.tasks.pretraining import PretrainOutcome
from truepair.tasks.retrieval import RetrievalResult


def run_summary(
    pairs: int, results: Mapping[str, RetrievalResult], audit: Audit, conversions: Mapping[str, Conversions]
) -> str:
    """One sentence on what the runs found.

    Args:
        pairs: training pairs.
        results: name of each run -> its figures; those of a single run go without its name.
        audit: of the first run.
        conversions: name of each run with a judge -> the pairs it converted.
    """
    several = len(results) > 1
    parts = [f"A model was trained on {pairs:,} image-text pairs{f' in {len(results)} ways' if several else ''}"]
    if results:
        best = {run: result.best for run, result in results.items()}
        images = next(iter(results.values())).images
        captions = _shares({run: metrics.i2t for run, metrics in best.items()})
        pictures = _shares({run: metrics.t2i for run, metrics in best.items()})
        parts.append(
            f"it finds a right caption for {captions} of {images:,} pictures it never saw, and a right picture for "
            f"{pictures} of the captions"
        )
    judged = next((precision for precision in audit.precision if precision.value is not None), None)
    if judged is not None:
        taken = "it most takes for matches" if audit.way == "ITM" else "it finds most similar"
        taken += f" ({next(iter(results))})" if several else ""
        parts.append(f"of the {judged.depth} undeclared training pairs {taken}, {judged.true} truly match")
    if audit.ties:
        parts.append(audit.ties)
    for converted in conversions.values():
        truly = "" if converted.precision is None else f", {percent(converted.precision)} of them truly matches"
        parts.append(f"a judge turned {len(converted):,} undeclared pairs into positives{truly}")
    return "; ".join(parts) + "."


def data_facts(outcome: PretrainOutcome, command: str) -> FactGroup:
    """What all runs have in common.

    Args:
        outcome: of any of them.
        command: what reproduces them.
    """
    train = outcome.train_images.table
    parameters = sum(p.numel() for p in outcome.model.parameters())
    trained = sum(p.numel() for p in outcome.model.parameters() if p.requires_grad)
    facts = {
        "Command": command,
        "Training pairs": f"{len(train):,} from {train.name}",
        "Model": f"{parameters / 1e6:.1f} M parameters, {trained / 1e6:.1f} M of them trained",
    }
    return FactGroup(title="Data and model", facts=facts)


def run_facts(title: str, outcome: PretrainOutcome, log: Records) -> FactGroup:
    """What a run took, and what its rules found.

    Args:
        title: of the facts.
        outcome: of the run.
        log: its records, as ``read_log`` gives them.
    """
    run = outcome.run
    speed = f"{run.seconds:.0f} s, {run.pairs_per_second:.0f} pairs/s" if run.seconds else "in an earlier call"
    facts = {
        "Steps": f"{run.steps:,}",
        "Training time": speed,
        "Visits of unreadable samples": str(run.substituted),
    }
    if outcome.left_out.summaries:
        facts["Left out, cut, merged or replaced"] = "; ".join(outcome.left_out.summaries)
    facts |= {f"After step {record['step']:,}": record["line"] for record in log if record["kind"] == "remark"}
    for (detector, action), cells in rule_counts(log).items():
        facts[f"Rule {detector}, {action}"] = f"{cells:,} pairs of batches, over all epochs"
    facts |= {f"Precision of {ledger}": standing.sentence() for ledger, standing in outcome.standings.items()}
    return FactGroup(title=title, facts=facts)


def machine_facts() -> FactGroup:
    """Processor, accelerator, operating system and the versions of the packages that make a run what it is."""
    facts = {
        "Processor": f"{_processor()}, {os.cpu_count()} cores",
        "Threads": str(torch.get_num_threads()),
        "Accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "System": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": platform.python_version(),
    }
    return FactGroup(title="Machine and versions", facts=facts | package_versions())


_PACKAGES = ("truepair", "torch", "torchvision", "transformers", "datasets", "accelerate", "numpy")


def _shares(directions: Mapping[str, DirectionMetrics]) -> str:
    """R@1 of each run; of several, with their names."""
    if len(directions) == 1:
        return percent(next(iter(directions.values())).recall_at_1.value)
    return ", ".join(f"{percent(metrics.recall_at_1.value)} ({run})" for run, metrics in directions.items())


def _processor() -> str:
    """The processor's name; Linux keeps it in a file, where Python does not look."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown"


def package_versions() -> dict[str, str]:
    """Versions of the installed packages."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
