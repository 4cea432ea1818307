"""A made-up study: arms with known gains on two densities of false negatives."""

import numpy as np

from truepair.tasks.study.table import StudyTable

GAINS = {  # arm -> points by the truth at full density, points by the own pair only
    "InfoNCE": (0.0, 0.0),
    "S-ITC 0.3": (2.0, 3.0),
    "SRCL own": (-1.0, 1.0),
    "SRCL good seed": (4.0, 0.5),
    "GRIT": (-4.0, -2.0),
    "GRIT + ECM": (6.0, 2.0),
    "GRIT + removal": (5.0, 2.5),
    "oracle mask": (6.5, 3.5),
    "oracle relabel": (11.0, 6.0),
}
DENSITIES = {"2 drawings": (0.2, 21.0), "7 drawings": (1.0, 57.0)}


def study_rows(data_seeds=(0, 1, 2), seeds=(0, 1, 2, 3, 4), tests=("held_out", "unseen"), noise=0.4):
    """Rows of a study whose arms gain what GAINS says, times the density, and chance on top."""
    rng = np.random.default_rng(7)
    rows = []
    for data, (density, base) in DENSITIES.items():
        for data_seed in data_seeds:
            concepts = rng.normal(0, 1.5)
            for seed in seeds:
                start = rng.normal(0, 0.5)
                for arm, (aware, naive) in GAINS.items():
                    for test in tests:
                        score = base + concepts + start + density * aware + rng.normal(0, noise)
                        own = 0.6 * base + concepts + start + density * naive + rng.normal(0, noise)
                        row = {"study": "made up", "arm": arm, "data": data, "data_seed": data_seed, "seed": seed}
                        row |= {"test": test, "seconds": 10.0, "pairs": 32_000, "retrieval_score": score, "naive": own}
                        row |= {"i2t_r1": score + 8, "t2i_r1": score + 6}
                        row |= {"i2t_map_r": score - 6, "t2i_map_r": score - 8}
                        row |= {"false_negative_rate": density * (6.0 if "GRIT" in arm else 3.0)}
                        row |= {"hardest_is_false": density * (65.0 if "GRIT" in arm else 36.0)}
                        row |= _own_figures(arm)
                        rows.append(row)
    return rows


def _own_figures(arm):
    """Figures that only some arms have."""
    srcl, judged = "SRCL" in arm, "ECM" in arm or "removal" in arm
    return {
        "weight_below_07": 30.0 if srcl else None,
        "weight_of_false_negatives": 0.45 if srcl else None,
        "conversion_precision": 89.0 if judged else None,
        "conversion_recall": 59.0 if judged else None,
        "itm_retrieval_score": None,
    }


def study_table(**how):
    return StudyTable(study_rows(**how), list(GAINS))
