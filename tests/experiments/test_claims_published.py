"""What the paper's own means say of each claim, counted by hand in its tables."""

import pytest

from lpft.experiments.claims import CLAIMS
from lpft.experiments.verdicts import Claim, Part, PublishedQuestion

RULE = "So the paper's own means do not meet the rule of every case"


def published(claim):
    return CLAIMS[claim - 1].published()


def test_sets_are_counted_by_question_and_those_against_are_named():
    # Table 13: of nine sets WSC alone has an LP head below 1; all have a random one of 0.795.
    questions = (
        PublishedQuestion("a", (13,), ("lp",), ("head_norm",), lambda probed: probed > 1),
        PublishedQuestion("b", (13,), ("pretrained",), ("head_norm",), lambda start: start < 1),
        PublishedQuestion("c", (13,), ("dora",), ("head_norm",), lambda norm: norm > 1),
    )

    def sentence(*parts, questions=questions):
        return Claim(1, "", parts, lambda *_: [], "Table 13", questions).published()

    told = "Published means (Table 13): a on 8 of 9 sets, against: wsc; b on 9 of 9 sets"
    assert sentence(Part("mostly", "most")) == told
    assert sentence(Part("all")) == f"{told}. {RULE}"
    assert sentence(Part("all"), questions=questions[1:]) == (
        "Published means (Table 13): b on 9 of 9 sets"
    )
    assert sentence(Part("all"), questions=questions[2:]) == ""


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        # Table 12: 1.84 and 1.94 under LoRA and LP-LoRA on MRPC alone.
        (1, ["LP-FT below FT on 12 of 12 sets", "below LoRA on 11 of 12 sets, against: mrpc"]),
        # Table 13: WSC's norm is 2.26e-4 after LP, of 0.795 at random, and 0.108 after LP-FT.
        (2, ["start on 8 of 9 sets, against: wsc", "LP-FT on 8 of 9 sets, against: wsc"]),
        # Tables 3, 14 and 15: ECE of CB under LoRA 12.89 to 16.22, of WSC under FT 6.26 to 7.97.
        (
            4,
            [
                "falls under FT on 7 of 8 sets, against: wsc",
                "falls under LP-FT on 7 of 8 sets, against: wsc",
                "falls under LoRA on 7 of 8 sets, against: cb",
                "falls under LP-LoRA on 8 of 8 sets",
                "most under LP-FT on 4 of 8 sets, against: cb, wsc, cola and sst2",
            ],
        ),
        # Table 2: 0.1987 to 0.2216 under FT, 0.9918 to 1 under LP-FT, 0.0005 at most under LoRA.
        (5, ["LP-FT above FT on 4 of 4 sets", "LoRA within 0.05 of 0 on 4 of 4 sets"]),
        # 57.95 of 58.75 on CoLA, 87.60 of 88.14 on MRPC, 87.05 of 87.09 on PubMed; WSC's are equal.
        (
            6,
            [
                "LP-FT at least FT on 7 of 10 sets, against: cola, mrpc and pubmed",
                "LP-FT above FT out of distribution on 2 of 3 sets, against: semeval",
            ],
        ),
    ],
)
def test_the_papers_means_are_counted(claim, told):
    sentence = published(claim)
    assert sentence.startswith("Published means (Table")
    for part in told:
        assert part in sentence
    assert (RULE in sentence) == (claim in (1, 2, 4))


def test_what_has_no_published_numbers_says_so_or_nothing():
    assert "figures 3, 10 and 11" in published(3)
    assert published(7) == published(8) == ""
