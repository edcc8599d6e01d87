"""Methods of plain runs beside each other: intervals, and when a report says that they differ."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from results.scored_runs import right_of, write_scored

from lpft.analysis.comparison import smallest_detectable_difference
from lpft.report.build import build_report
from lpft.report.runs import score_differences
from lpft.report.table import text_rows
from lpft.results.differences import Differences, ScoreContrast, judge_groups
from lpft.results.groups import Group, group_runs
from lpft.results.judging import Judgement
from lpft.results.run import find_runs

ROWS = 200
HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot tell"


def write(folder: Path, wrong: dict[str, list[int]], best: str = "lp-ft", **run: Any) -> Path:
    """Runs of each method, one seed for each number: so many of 200 test answers are wrong.

    On validation ``best`` is best, then FT, then the others.
    """
    for method, by_seed in wrong.items():
        on_validation = 10 if method == best else 20 if method == "ft" else 30
        for seed, count in enumerate(by_seed):
            right = {"validation": right_of(100, on_validation), "test": right_of(ROWS, count)}
            write_scored(folder / f"{method}-{seed}", method, seed, right, **run)
    return folder


def groups_in(folder: Path) -> tuple[Group, ...]:
    return group_runs(find_runs(folder)[0])[0]


def judged(folder: Path) -> Differences:
    (group,) = groups_in(folder)
    return judge_groups([group])[group.slug]


def only(differences: Differences) -> ScoreContrast:
    (contrast,) = differences.scores
    return contrast


def interval(judgement: Judgement | None) -> tuple[float, float]:
    assert judgement is not None
    assert judgement.effect.low is not None
    assert judgement.effect.high is not None
    return judgement.effect.low, judgement.effect.high


def test_validation_chooses_and_test_decides(tmp_path: Path) -> None:
    """LP-FT is chosen by validation, though FT is better on test in every seed."""
    found = judged(
        write(tmp_path, {"ft": [20, 22, 21, 20, 22], "lp-ft": [60, 61, 62, 60, 61], "lp": [90] * 5})
    )
    assert found.chosen is not None
    assert found.chosen.method == "lp-ft"
    assert [(c.other.method, c.judgement.verdict) for c in found.scores] == [
        ("ft", FAILS),
        ("lp", HOLDS),
    ]
    assert found.choice is not None
    assert found.choice.best == "lp-ft"


def test_numbers_are_of_paired_seeds_and_rows(tmp_path: Path) -> None:
    ft, lp_ft = [40, 44, 36, 50, 30], [30, 30, 30, 38, 22]
    judgement = only(judged(write(tmp_path, {"ft": ft, "lp-ft": lp_ft}))).judgement
    leads = (np.array(ft) - np.array(lp_ft)) / ROWS
    assert judgement.effect.value == pytest.approx(leads.mean())
    assert judgement.effect.sd == pytest.approx(leads.std(ddof=1))
    assert judgement.effect.count == 5
    assert judgement.detectable == pytest.approx(
        smallest_detectable_difference(float(leads.std(ddof=1)), 5)
    )
    # Samples: of each seed the same first rows differ; the mean of their shares varies as a mean
    # of draws. Seeds: the standard error. Together they are the half of the interval over 2.
    answers = np.stack([np.arange(ROWS) < n for n in ft]).astype(float)
    answers -= np.stack([np.arange(ROWS) < n for n in lp_ft]).astype(float)
    variance = answers.mean(axis=0).var() / ROWS + leads.var(ddof=1) / 5
    low, high = interval(judgement)
    assert 1.9 < (high - low) / 2 / np.sqrt(variance) < 2.6


@pytest.mark.parametrize(
    ("ft", "lp_ft"),
    [
        # ahead in all five seeds, by so little that other rows could turn it
        ([41, 42, 41, 42, 49], [40] * 5),
        # far ahead in the one seed there is
        ([150], [10]),
    ],
)
def test_what_seeds_or_rows_do_not_show_is_no_difference(
    tmp_path: Path, ft: list[int], lp_ft: list[int]
) -> None:
    found = judged(write(tmp_path, {"ft": ft, "lp-ft": lp_ft}))
    assert only(found).judgement.verdict == UNTOLD


def test_few_seeds_need_all_data_sets_to_agree(tmp_path: Path) -> None:
    apart = {"ft": [80, 82], "lp-ft": [20, 22]}
    write(tmp_path / "a", apart, data_name="a")
    write(tmp_path / "b", apart, data_name="b")
    groups = groups_in(tmp_path)
    for some in (groups[:1], groups):
        found = judge_groups(some)
        assert {only(one).judgement.verdict for one in found.values()} == {HOLDS}
    # On the third FT is chosen and better: LP-FT against FT, the other way round.
    write(tmp_path / "c", {"ft": [20, 22], "lp-ft": [80, 82]}, best="ft", data_name="c")
    found = judge_groups(groups_in(tmp_path))
    chosen = [one.chosen.method for one in found.values() if one.chosen is not None]
    assert chosen == ["lp-ft", "lp-ft", "ft"]
    for one in found.values():
        assert only(one).judgement.verdict == UNTOLD
        assert "not all seeds of all tasks agree" in only(one).judgement.why


def test_another_model_is_another_question(tmp_path: Path) -> None:
    write(tmp_path / "a", {"ft": [80, 82], "lp-ft": [20, 22]})
    write(tmp_path / "b", {"ft": [20, 22], "lp-ft": [80, 82]}, model="other")
    found = judge_groups(groups_in(tmp_path))
    assert {only(one).judgement.verdict for one in found.values()} == {HOLDS, FAILS}


def test_out_of_distribution_sets_count_together(tmp_path: Path) -> None:
    for method, near, far in (("ft", 40, 20), ("lp-ft", 30, 4)):
        right = {
            "validation": right_of(100, 20 if method == "ft" else 10),
            "test": right_of(ROWS, near),
            "ood/a": right_of(80, far),
            "ood/b": right_of(40, far),
        }
        write_scored(tmp_path / method, method, 0, right)
    test, ood = judged(tmp_path).scores
    assert (test.where, ood.where) == ("test", "OOD, mean of 2 sets")
    assert test.judgement.effect.value == pytest.approx(10 / ROWS)
    assert ood.judgement.effect.value == pytest.approx((16 / 80 + 16 / 40) / 2)


def test_sets_of_one_name_with_other_texts_are_not_compared(tmp_path: Path) -> None:
    for method, found in (("ft", "aa"), ("lp-ft", "bb")):
        right = {name: right_of(40, 10) for name in ("validation", "test", "ood/far")}
        prints = {"data": {"train": "1", "validation": "2", "test": "3", "ood/far": found}}
        write_scored(tmp_path / method, method, 0, right, fingerprints=prints)
    found = judged(tmp_path)
    assert [contrast.where for contrast in found.scores] == ["test"]
    (problem,) = found.problems
    assert problem.startswith("Methods are not compared on ood/far: ft and lp-ft were tested on")
    assert problem in build_report(tmp_path).page.read_text()


def test_seeds_that_no_two_methods_share_are_no_pair(tmp_path: Path) -> None:
    write_scored(tmp_path / "a", "ft", 0, {"validation": right_of(9, 2), "test": right_of(9, 2)})
    write_scored(tmp_path / "b", "lp", 1, {"validation": right_of(9, 3), "test": right_of(9, 3)})
    found = judged(tmp_path)
    assert only(found).judgement.effect.value is None
    (group,) = groups_in(tmp_path)
    table = score_differences(found, group)
    assert table is not None
    assert [cell.text for cell in text_rows(table)[0]] == ["test", "FT", "–", "–", "–"]


def test_one_method_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    found = judged(write(tmp_path, {"ft": [20, 30]}))
    (group,) = groups_in(tmp_path)
    assert found.chosen is not None
    assert (found.chosen.method, found.choice, found.scores) == ("ft", None, ())
    assert score_differences(found, group) is None


def test_of_methods_as_good_on_validation_the_simpler_is_chosen(tmp_path: Path) -> None:
    """LP has 12 of 100 wrong and LP-FT 11, the others being the same: (1 - 0)^2 <= 1 + 0."""
    for method, wrong in (("lp", 12), ("lp-ft", 11)):
        right = {"validation": right_of(100, wrong), "test": right_of(ROWS, 40)}
        write_scored(tmp_path / method, method, 0, right)
    found = judged(tmp_path)
    assert found.chosen is not None
    assert found.chosen.method == "lp"
    assert found.choice is not None
    assert found.choice.best == "lp-ft"


def test_methods_are_compared_on_the_validation_rows_that_they_share(tmp_path: Path) -> None:
    """LP was scored on 100 rows by folds, LP-FT on the last ten, where it has five more right."""
    write_scored(tmp_path / "a", "lp", 0, {"validation": right_of(100, 40), "test": [True] * 9})
    write_scored(tmp_path / "b", "lp-ft", 0, {"validation": right_of(30, 10), "test": [True] * 9})
    found = judged(tmp_path)
    assert found.choice is not None
    # Rows 0 to 29 are all wrong with LP; LP-FT has 20 of them right.
    assert [standing.score for standing in found.choice.standings] == [0.0, pytest.approx(2 / 3)]


def test_feature_change_is_judged_on_texts_and_seeds(tmp_path: Path) -> None:
    """By the texts' own distances where they were kept, and over seeds alone elsewhere."""
    rows = 30
    for method, base in (("ft", 2.0), ("lp-ft", 1.0)):
        for seed in range(5):
            moved = base + 0.1 * seed + np.linspace(0, 3 if method == "ft" else 0, rows)
            right = {"validation": right_of(rows, 3), "test": right_of(rows, 3)}
            changes = {"test": moved.tolist()}
            write_scored(tmp_path / f"{method}-{seed}", method, seed, right, changes=changes)
    # 1 + a mean of draws of 0 to 3, and seeds do not differ.
    half = 1.96 * np.linspace(0, 3, rows).std() / np.sqrt(rows)
    for expected in (pytest.approx(half, rel=0.1), pytest.approx(0)):
        (match,) = judged(tmp_path).comparisons[0].shared
        low, high = interval(match.judgement)
        assert ((low + high) / 2, (high - low) / 2) == (pytest.approx(2.5, abs=0.1), expected)
        for path in tmp_path.glob("*/features/test.parquet"):
            path.unlink()


def test_the_page_and_its_files_have_the_table(tmp_path: Path) -> None:
    write(tmp_path, {"ft": [41, 42, 41, 42, 49], "lp-ft": [40] * 5, "lp": [90, 91, 92, 90, 91]})
    text = build_report(tmp_path).page.read_text()
    assert text.count("<span>LP-FT compared with each other method</span>") == 1
    assert (
        "These are 2 comparisons at 95 % each: if nothing differed, about 0.1 of the intervals"
        in text
    )
    assert (
        "with fewer than five seeds every seed on every data set must also have the same sign"
        in text
    )
    assert "which favours LP-FT" not in text
    (path,) = (tmp_path / "report-tables").glob("*-differences.csv")
    rows = list(csv.DictReader(path.open()))
    assert [(row["On"], row["Against"], row["Reading"]) for row in rows] == [
        ("test", "FT", "cannot tell"),
        ("test", "LP", "higher"),
    ]
    for row in rows:
        low, value, high = (float(row[f"Difference{end}"]) for end in (" low", "", " high"))
        assert low < value < high
        assert float(row["Detectable"]) > 0


def test_without_a_test_split_the_page_says_whom_validation_favours(tmp_path: Path) -> None:
    for method, wrong in (("ft", 20), ("lp-ft", 10)):
        write_scored(tmp_path / method, method, 0, {"validation": right_of(100, wrong)})
    text = build_report(tmp_path).page.read_text()
    assert "which favours LP-FT" in text
    assert "<span>LP-FT compared with each other method</span>" in text
