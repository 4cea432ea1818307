"""Question 4: conversion against removal, each place of ECM alone, S-ITC with and without GRIT."""

from truepair.reports.study.converted import converted_table
from truepair.reports.study.data import Answer
from truepair.reports.study.gains import gain_plot, gain_sentences, pair_table
from truepair.reports.study.view import StudyView


def answer_mafa(view: StudyView) -> Answer:
    """Gains of the arms with GRIT, ECM and S-ITC, and how well their judge chose."""
    arms = view.arms_of("mafa")
    return Answer(
        key="mafa",
        title="MAFA: conversion, places, S-ITC",
        question=(
            "Is converting false negatives better than removing them, what does each of ECM's three places (ITC, ITM, "
            "MLM) bring alone, and what does S-ITC bring with and without GRIT?"
        ),
        sentences=gain_sentences(view, arms) or ["This study has no arm with GRIT, ECM or S-ITC."],
        drawings=gain_plot(view, arms, "GRIT, ECM and S-ITC"),
        tables=[*pair_table(view, "mafa"), *converted_table(view, arms)],
    )
