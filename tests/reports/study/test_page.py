import json
import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.reports.samples import HOSTILE
from tests.reports.study.made_up import ARMS, DETECTORS, write_study
from tests.reports.test_page import Page
from truepair.errors import ConfigError, DataError
from truepair.reports.study import report_study
from truepair.tasks.study.config import QuestionArms

KEYS = ["batches", "density", "srcl", "mafa", "naive", "detectors"]


def report(folder, **how):
    given = {"title": "A study", "reference": "InfoNCE", "ceiling": "oracle relabel", "arms": ARMS} | how
    return report_study(folder, **given).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    questions = {"mafa": QuestionArms(pairs=[["GRIT + ECM", "GRIT + removal"], ["GRIT + ECM", "never run"]])}
    return report(write_study(tmp_path_factory.mktemp("study")), questions=questions, command="truepair study x.yaml")


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def section(source, key):
    """Words of a section, without those of its drawings."""
    text = re.search(rf'<section[^>]* id="{key}".*?</section>', source, flags=re.DOTALL).group()
    return text, " ".join("".join(Page(re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)).words).split())


def test_each_question_has_its_section_with_figures(source, page):
    assert [a["id"] for tag, a in page.elements if tag == "section"] == [*KEYS, "arms", "facts"]
    assert {f"#{key}" for key in (*KEYS, "arms", "facts")} <= set(page.attributes("href"))
    for key in KEYS:
        assert section(source, key)[0].count('<svg role="img"') >= 1, key


def test_answers_in_words(source):
    assert "65.0 % of those of GRIT" in section(source, "batches")[1]
    density = section(source, "density")[1]
    assert re.search(r"7 drawings: InfoNCE reaches 5\d.\d where oracle relabel reaches 6\d.\d: \+11.\d points", density)
    assert "GRIT + ECM recovers most of it without knowing the truth, 55 % (53 to 57)" in density
    assert "No method recovers 60 % at every density" in density
    assert "SRCL own30.0 %0.4530.0 %0.45" in section(source, "srcl")[1]
    mafa = section(source, "mafa")[1]
    assert "GRIT + ECM instead of GRIT + removal+0." in mafa
    assert "never run" not in mafa
    assert "GRIT + removal89.0 %59.0 %1.2 %" in mafa and "Pairs converted" not in density
    assert re.search(r"rank correlation \(Spearman\) of 9 arms by the two figures is 0.8", section(source, "naive")[1])
    assert (
        "both, calibrated with an average precision of 0.710, which reaches the aim" in section(source, "detectors")[1]
    )
    assert "truepair study x.yaml" in section(source, "facts")[1]


def test_nothing_outside_the_file_is_named(source, page):
    assert "//" not in source
    assert "<script" not in source
    assert page.attributes("src") == []
    assert all(link.startswith("#") for link in page.attributes("href"))
    counts = Counter(page.attributes("id"))
    assert max(counts.values()) == 1
    assert set(page.attributes("aria-labelledby")) <= set(counts)


def test_plain_sentences_where_the_study_holds_no_answer(tmp_path):
    only = ["InfoNCE", "oracle relabel"]
    from_all = report(write_study(tmp_path, curves=False, detectors=False), arms=[*only, "not yet"])
    assert "no detectors that were compared" in from_all
    assert "not yet" in section(from_all, "facts")[1]
    assert "<svg" not in section(from_all, "detectors")[0]
    few = report(write_study(tmp_path, curves=False, detectors=False, arms=only))
    assert "This study has no SRCL arm." in few
    assert "no arm with GRIT, ECM or S-ITC" in few
    assert "there is no ranking to compare" in few
    assert "no arm with grouped batches was run" in few
    alone = report(write_study(tmp_path, curves=False, detectors=False, arms=["SRCL own"]))
    assert "No run of InfoNCE and oracle relabel is finished" in alone
    assert "None of SRCL own shares a finished run with InfoNCE." in alone


def test_texts_are_shown_and_never_run(tmp_path):
    folder = write_study(tmp_path, curves=False)
    (folder / "detectors.json").write_text(json.dumps(DETECTORS | {"data": HOSTILE}))
    page = Page(report(folder, title=HOSTILE, command=HOSTILE))
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["script"] == tags["img"] == 0
    assert HOSTILE in "".join(page.words)


def test_one_run_of_each_arm_gives_no_interval(tmp_path):
    source = report(write_study(tmp_path, data_seeds=(0,), seeds=(0,), tests=("held_out",)))
    assert "<small>1 run</small>" in source
    assert "no verdict on the methods is given" in source
    assert "best of 2 arms is SRCL good seed" in section(source, "srcl")[1]
    assert re.search(r"by the two figures is 0.\d\d \(1 run\)", source)
    assert "95 % interval" not in section(source, "density")[1]
    assert "1 sample of concepts with 1 seed each" in source


def test_arms_of_fewer_seeds_are_counted_as_they_are(tmp_path):
    folder = write_study(tmp_path, seeds=(0, 1), tests=("held_out",))
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    fewer = [row for row in rows if (row["arm"], row["seed"]) != ("GRIT", 1)]
    pq.write_table(pa.Table.from_pylist(fewer), folder / "results.parquet")
    assert "3 samples of concepts with up to 2 seeds each: 102 runs" in report(folder)


def test_a_question_is_about_the_arms_that_the_study_file_names(tmp_path):
    folder = write_study(tmp_path, tests=("held_out",), seeds=(0,))
    named = {"naive": QuestionArms(arms=["SRCL*"]), "density": QuestionArms(arms=["GRIT"])}
    source = report(folder, questions=named)
    assert "of 4 arms by the two figures" in section(source, "naive")[1]
    assert "SRCL" not in section(source, "density")[0].split("<figcaption>Share of the gain")[1]


def test_how_well_every_judge_chose_is_shown_once(tmp_path):
    folder = write_study(tmp_path, tests=("held_out",), seeds=(0,))
    source = report(folder, questions={"mafa": QuestionArms(arms=["GRIT + removal"])})
    assert "GRIT + removal89.0 %" in section(source, "mafa")[1]
    density = section(source, "density")[1]
    assert "GRIT + ECM89.0 %" in density and "GRIT + removal89.0 %" not in density


def test_without_a_ceiling_there_are_gains_and_no_shares(tmp_path):
    arms = [arm for arm in ARMS if "oracle" not in arm]
    source = report(write_study(tmp_path, arms=arms), ceiling="", arms=arms)
    drawn, density = section(source, "density")
    assert "No arm knows the truth of the training pairs" in density and "best is GRIT + ECM, +" in density
    assert drawn.count('<svg role="img"') == 1
    table = (tmp_path / "table.md").read_text()
    assert "share of" not in table and "ceiling" not in source
    header, _, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert all(row.count("|") == header.count("|") for row in rows)


def test_what_cannot_be_reported_is_said(tmp_path):
    with pytest.raises(DataError, match="run the study first"):
        report(tmp_path)
    write_study(tmp_path)
    with pytest.raises(ConfigError, match="'colours' is not one of batches, density"):
        report(tmp_path, questions={"colours": QuestionArms()})
    (tmp_path / "detectors.json").write_text('{"detectors": [{"name": "x"}]}')
    with pytest.raises(DataError, match="detectors cannot be read"):
        report(tmp_path)
    (tmp_path / "curves.parquet").write_text("nothing")
    with pytest.raises(DataError, match="curves cannot be read"):
        report(tmp_path)


def test_learned_hardness_is_drawn_for_the_arms_that_have_it(tmp_path):
    folder = write_study(tmp_path)
    key = {"study": "made up", "arm": "GRIT + ECM", "data": "7 drawings", "data_seed": 0}
    learned = [
        key | {"seed": seed, "epoch": epoch, "name": "hardness_quantile", "value": 0.9 - 0.1 * epoch + 0.04 * seed}
        for seed in (0, 1)
        for epoch in (1, 2, 3)
    ]
    rows = pq.read_table(folder / "curves.parquet").to_pylist() + learned
    pq.write_table(pa.Table.from_pylist(rows), folder / "curves.parquet")
    text, words = section(report(folder), "batches")
    assert "7 drawings: hardness is learned; its mean quantile goes in GRIT + ECM from 0.82 to 0.62" in words
    assert "range of its runs, 7 drawings by epoch: GRIT + ECM from 0.82 to 0.62 (runs 0.60 to 0.64)." in text
    assert "hardness" not in section(report(write_study(tmp_path / "without")), "batches")[1]
