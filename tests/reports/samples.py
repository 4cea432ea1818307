"""A small report with every section, made of drawn squares."""

from PIL import Image

from truepair.evaluation import DirectionMetrics, Estimate, RetrievalMetrics, precision_at
from truepair.reports import (
    CaptionAnswer,
    CaptionQuery,
    ConvertedCard,
    ConvertedPairs,
    FactGroup,
    PictureAnswer,
    PictureBook,
    PictureQuery,
    ReportData,
    SuspectCard,
    batch_plots,
    conversion_plots,
    information_plots,
    key_figures,
    loss_plots,
    recall_plots,
    result_table,
)

HOSTILE = "<script>alert('caption')</script><img src=x onerror=alert(1)> \"' onload=\"x\" &amp; </style></title>"
LONG = "a" + "bcdefghijklmnop" * 30


def estimate(value):
    return Estimate(value, value * 0.9, min(value * 1.1, 1.0))


def direction(share, queries=400):
    figures = [estimate(share * factor) for factor in (1.0, 1.2, 1.4, 0.8, 0.9)]
    return DirectionMetrics(queries, 3, *figures, Estimate(4.0, 3.0, 6.5), 0.0025)


def metrics(share):
    return RetrievalMetrics(direction(share), direction(share / 2), direction(share / 3), direction(share / 4))


def log(scale):
    steps = [{"kind": "step", "step": s, "epoch": 0, "loss": scale / (s + 1), "itc": 0.5} for s in range(0, 500, 20)]
    names = ("i2t_r@1", "t2i_r@1", "naive_i2t_r@1")
    checks = [{"kind": "validation", "step": s, "epoch": 0} | dict.fromkeys(names, s / 1000) for s in (100, 300, 500)]
    for record in steps:
        record |= {"mi_positive": 4.0, "mi_negative": -9.0, "mi_false_negative": 3.0 - scale / 5}
    rates = {"false_negative_rate": 0.02, "random_false_negative_rate": 0.001, "hardest_similarity": 0.4}
    counts = {"ecm/conversions_converted": 50.0 * scale, "ecm/conversions_right": 40.0, "ecm/conversion_precision": 0.8}
    epochs = [{"kind": "epoch", "step": 100 * e, "epoch": e} | rates | counts for e in range(5)]
    return steps + checks + epochs


def picture(number, side=72):
    return Image.linear_gradient("L").resize((side, side)).convert("RGB").point(lambda v: (v * (number + 3)) % 256)


def report(text="a red square", arms=("plain", "managed"), suspects=60):
    """A report whose every text is ``text`` or starts with it."""
    book = PictureBook(side=72)
    keys = [book.add(picture(number)) for number in range(8)]
    verdicts = ["true", "near", "false", "unknown"]
    cards = [
        SuspectCard(
            picture=keys[number % 8],
            own_caption=text,
            caption=f"{text} {number}",
            caption_picture=keys[(number + 1) % 8],
            score=f"ITM {99 - number / 10:.1f} %",
            verdict=verdicts[number % 4],
            action=text if number == 1 else "",
        )
        for number in range(suspects)
    ]
    flags = [{"true": True, "false": False}.get(card.verdict) for card in cards]
    pairs = [
        ConvertedCard(
            picture=keys[(number + 2) % 8],
            own_caption=text,
            caption=f"{text} {number}",
            caption_picture=keys[number % 8],
            score=0.8 + number / 1000,
            epoch=number + 1,
            verdict=verdicts[number % 4],
        )
        for number in range(12)
    ]
    converted = ConvertedPairs(run=text, count=1234, judged=1000, true=900, recall=0.625, cards=pairs)
    marks = ["own", "true", "near", "wrong", "wrong"]
    table = result_table({arm: {"similarity": metrics(0.4), "ITM": metrics(0.5)} for arm in arms})
    return ReportData(
        title=text,
        summary=text,
        key_figures=key_figures({arm: metrics(0.5) for arm in arms}, precision_at(flags), {text: pairs}),
        results=table,
        plots=[
            plot
            for draw in (recall_plots, loss_plots, information_plots, batch_plots, conversion_plots)
            for plot in draw({arm: log(5.0) for arm in arms})
        ],
        examples_of=text,
        caption_queries=[
            CaptionQuery(
                caption=text,
                answers=[
                    PictureAnswer(picture=keys[k], caption=text, score=f"0.{k}", mark=mark)
                    for k, mark in enumerate(marks)
                ],
            )
        ],
        picture_queries=[
            PictureQuery(
                picture=keys[0],
                caption=text,
                answers=[CaptionAnswer(caption=f"{text} {k}", score=text, mark=mark) for k, mark in enumerate(marks)],
            )
        ],
        suspects_of=text,
        suspects=cards,
        precision=precision_at(flags),
        converted=[converted],
        facts=[FactGroup(title=text, facts={"Command": text, text: text})],
        pictures=book.uris,
    )
