"""The folder of a made-up study: results, curves and detectors."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq

from tests.tasks.study.study_rows import DENSITIES, GAINS, study_rows

ARMS = list(GAINS)
EPOCHS = 25
DETECTORS = {
    "data": "Flickr8k",
    "pairs": 5822,
    "matches": 1016,
    "command": "truepair study experiments/detectors.yaml",
    "detectors": [
        {
            "name": name,
            "auc": auc,
            "average_precision": precision,
            "average_precision_interval": [precision - 0.02, precision + 0.02],
            "precision_at_recall": {"0.1": 0.9, "0.25": 0.8, "0.5": precision},
        }
        for name, auc, precision in (
            ("caption similarity", 0.964, 0.530),
            ("con-D", 0.95, 0.49),
            ("both, calibrated", 0.98, 0.71),
        )
    ],
}


def curve_rows(seeds=(0, 1)):
    """Curves of a few arms: shares, mutual information, and 21 counts of weights."""
    rows = []
    for data, (density, _) in DENSITIES.items():
        for arm in ("InfoNCE", "GRIT", "GRIT + ECM", "SRCL own", "SRCL good seed"):
            for seed in seeds:
                for epoch in range(1, EPOCHS + 1):
                    grown = 1 - math.exp(-epoch / 6)
                    values = {
                        "hardest_is_false": density * (0.65 if "GRIT" in arm else 0.36) * grown + 0.01 * seed,
                        "false_negative_rate": density * (0.06 if "GRIT" in arm else 0.03),
                        "random_false_negative_rate": density * 0.03,
                        "mi_positive": 4.0 * grown,
                        "mi_negative": (-3.0 if "SRCL" in arm else -9.0) * grown,
                    }
                    if "SRCL" in arm:
                        middle = 12 if "own" in arm else 9
                        values |= {f"srcl_weights/{n:02d}": math.exp(-((n - middle) ** 2) / 8) for n in range(21)}
                    key = {"study": "made up", "arm": arm, "data": data, "data_seed": 0, "seed": seed, "epoch": epoch}
                    rows += [key | {"name": name, "value": value} for name, value in values.items()]
    return rows


def write_study(folder, *, curves=True, detectors=True, arms=ARMS, **how):
    """Write what a study leaves behind of some arms; ``how`` goes to ``study_rows``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in study_rows(**how) if row["arm"] in arms]
    pq.write_table(pa.Table.from_pylist(rows), folder / "results.parquet")
    if curves:
        pq.write_table(pa.Table.from_pylist(curve_rows()), folder / "curves.parquet")
    if detectors:
        (folder / "detectors.json").write_text(json.dumps(DETECTORS))
    return folder
