"""Question 2: what false negatives cost as they grow denser, and what each method wins back."""

from truepair.reports.study.converted import converted_table
from truepair.reports.study.data import Answer, Drawing
from truepair.reports.study.gains import gain_plot, gain_sentences
from truepair.reports.study.plots import IntervalPlot, gain_estimate, share_estimate
from truepair.reports.study.view import StudyView
from truepair.reports.study.words import gain_words, listed, number, share_words
from truepair.tasks.study.statistics import FEWEST, RecoveredShare

AIM = 0.6  # of the ceiling's gain
LIMITS = (-150.0, 200.0)  # per cent shown: where there is little to recover, shares know no bounds


def answer_density(view: StudyView) -> Answer:
    """The ceiling's gain by kind of data, and the share of it that each arm reaches; without a ceiling, their gains."""
    sentences = [text for data in view.table.data for text in _sentence(view, data)]
    missing = [arm for arm in (view.reference, view.ceiling) if arm and arm not in view.table.arms]
    arms = view.arms_of("density")
    if not view.ceiling:
        sentences = ["No arm knows the truth of the training pairs, so there is no share of a gain to be given."]
        sentences += gain_sentences(view, arms)
    elif missing:
        sentences = [f"No run of {listed(missing)} is finished, so no share of a gain can be given."]
    elif len(view.table.data) > 1:
        sentences.append(_verdict(view))
    return Answer(
        key="density",
        title="What false negatives cost",
        question="How much does the reference lose to them as their density grows, and what does each method recover?",
        sentences=sentences,
        drawings=_drawings(view) if view.ceiling else gain_plot(view, arms, "All arms"),
        tables=converted_table(view, [arm for arm in view.methods if arm not in view.arms_of("mafa")]),
    )


def best_method(view: StudyView, data: str) -> tuple[str, RecoveredShare] | None:
    """The arm that recovers most without knowing the truth, and its share."""
    shares = [(arm, share) for arm in view.methods if (share := view.recovered(arm, data)) is not None]
    return max(shares, key=lambda item: item[1].value, default=None)


def _sentence(view: StudyView, data: str) -> list[str]:
    """The ceiling's gain on a kind of data, and the best method."""
    gain = view.gain(view.ceiling, data)
    if gain is None:
        return []
    base, top = (view.mean(arm, data, "ga") or 0.0 for arm in (view.reference, view.ceiling))
    cost = (
        f"{data}: {view.reference} reaches {number(base)} where {view.ceiling} reaches {number(top)}: "
        f"{gain_words(gain)} for knowing its false negatives."
    )
    best = best_method(view, data)
    if best is not None and best[1].value <= 0:
        return [f"{cost} No method wins any of it back."]
    if best is not None:
        return [f"{cost} {best[0]} recovers most of it without knowing the truth, {share_words(best[1])}."]
    return [cost] if gain.clear else [f"{cost} That is not clear of zero, so no share of it can be given."]


def _verdict(view: StudyView) -> str:
    """Whether one method reaches the aim on all kinds of data."""
    least: dict[str, float] = {}
    reached, few = [], True
    for arm in view.methods:
        shares = [view.recovered(arm, data) for data in view.table.data]
        known = [share for share in shares if share is not None]
        if known and len(known) == len(shares):
            least[arm] = min(share.value for share in known)
            few = few and min(share.cells for share in known) < FEWEST
            if least[arm] >= AIM and all(share.clear for share in known):
                reached.append(arm)
    if not least:
        return "No method has a share at every density."
    if few:
        return f"Of fewer than {FEWEST} runs no verdict on the methods is given."
    best = max(least, key=least.__getitem__)
    if reached:
        return f"At least {number(100 * AIM, 0)} % at every density, with an interval clear of zero: {listed(reached)}."
    return (
        f"No method recovers {number(100 * AIM, 0)} % at every density with an interval clear of zero; {best} comes "
        f"closest: {number(100 * least[best], 0)} % at its worst."
    )


def _drawings(view: StudyView) -> list[Drawing]:
    """The gain to be had by kind of data; then the share of it by arm."""
    data = view.table.data
    oracles = [arm for arm in view.table.arms if arm not in (*view.methods, view.reference)]
    gains = {arm: [gain_estimate(view.gain(arm, kind)) for kind in data] for arm in oracles}
    found: list[Drawing] = []
    if gains:
        title = f"What knowing the truth gains over {view.reference}"
        found.append(IntervalPlot(title=title, x_label="points", rows=data, series=gains))
    arms = view.arms_of("density")
    shares = {arm: [view.recovered(arm, kind) for kind in data] for arm in arms}
    shown = sorted((arm for arm in arms if any(shares[arm])), key=lambda arm: -_mean(shares[arm]))
    if shown:
        series = {kind: [share_estimate(shares[arm][place]) for arm in shown] for place, kind in enumerate(data)}
        title = f"Share of the gain of {view.ceiling} recovered"
        found.append(
            IntervalPlot(title=title, x_label="per cent", rows=shown, series=series, mark=100 * AIM, limits=LIMITS)
        )
    return found


def _mean(shares: list[RecoveredShare | None]) -> float:
    """Mean of the shares that are known."""
    known = [share.value for share in shares if share is not None]
    return sum(known) / len(known)
