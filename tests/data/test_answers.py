import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpft.data.tasks.superglue import exact_match, token_f1

WORDS = st.lists(st.sampled_from(["Ann", "bo", "the", "Lee", "U.S.", "-"]), max_size=4).map(
    " ".join
)


@pytest.mark.parametrize(
    ("phrase", "answers", "exact", "f1"),
    [
        ("Ann Lee", ["Ann Lee"], 1, 1),
        ("the  ann lee!", ["Ann Lee", "Bo"], 1, 1),
        ("U.S.", ["the US"], 1, 1),
        # one word in common of 2 and 1: 2 * 1 / 3
        ("Ann Lee", ["Ann"], 0, 2 / 3),
        ("Ann Lee", ["Bo", "Lee Ann Bo"], 0, 4 / 5),
        # "a" is an article, "Ann" holds one and stays; "Bo" twice meets "Bo" once
        ("Bo Bo", ["a Bo"], 0, 2 / 3),
        ("Ann", ["Bo"], 0, 0),
        ("the", ["Ann"], 0, 0),
        ("Ann", [], 0, 0),
    ],
)
def test_hand_counts(phrase, answers, exact, f1):
    assert exact_match(phrase, answers) == exact
    assert token_f1(phrase, answers) == pytest.approx(f1, abs=1e-15)


@given(phrase=WORDS, answer=WORDS)
def test_f1_is_symmetric_and_one_where_the_match_is_exact(phrase, answer):
    assert token_f1(phrase, [answer]) == token_f1(answer, [phrase])
    assert 0 <= token_f1(phrase, [answer]) <= 1
    if exact_match(phrase, [answer]) and token_f1(phrase, [phrase]):
        assert token_f1(phrase, [answer]) == 1
