"""Verdicts on the page: the whole, each choice of rates, and what must be known beside them."""

from pathlib import Path

from lpft.report.exhibits.reading import read_tally
from lpft.report.exhibits.tables import untraced
from lpft.report.exhibits.verdicts import view_claims
from report.experiment_folders import sample_experiment, write_experiment

from lpft.report import build_report, format_experiment
from lpft.results.exhibits import OVERALL, Estimate, Verdict

HOSTILE = "<script>alert(1)</script> beside"


def verdict(comparison: str, rates: str, name: str, remark: str = "") -> Verdict:
    told = f"because at {rates}" if rates else "because"
    return Verdict(1, "It holds.", comparison, rates, Estimate(None), "", name, told, None, remark)  # type: ignore[arg-type]


JUDGED = (
    verdict(OVERALL, "", "does not hold", "of the whole"),
    verdict(OVERALL, "published", "holds"),
    verdict(OVERALL, "shared", "does not hold"),
    verdict("cb", "published", "holds", HOSTILE),
    verdict("cb", "shared", "does not hold"),
)


def test_verdicts_at_each_rates_are_apart_from_the_whole_and_from_comparisons() -> None:
    (claim,) = view_claims(JUDGED, untraced)
    assert claim.whole is not None
    assert (claim.whole.rates, claim.whole.remark) == ("", "of the whole")
    assert [(row.rates, row.verdict) for row in claim.by_rates] == [
        ("published", "holds"),
        ("shared", "does not hold"),
    ]
    assert [(row.comparison, row.rates) for row in claim.rows] == [
        ("cb", "published"),
        ("cb", "shared"),
    ]
    assert read_tally(JUDGED) == "Of 1 claim 1 does not hold."


def test_the_page_and_the_terminal_show_them_with_their_remarks(tmp_path: Path) -> None:
    record = sample_experiment(exhibits=(), verdicts=JUDGED)
    write_experiment(tmp_path, record)
    page = build_report(tmp_path).page.read_text(encoding="utf-8")
    for text in ("at published rates: because at published", "at shared rates: because at shared"):
        assert text in page
    assert "of the whole" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; beside" in page
    told = format_experiment(record)
    assert "✓ holds at published rates: because at published" in told
    assert "✗ does not hold at shared rates: because at shared" in told
    assert "✗ does not hold: because (of the whole)" in told
    assert f"because at published ({HOSTILE})" in told
