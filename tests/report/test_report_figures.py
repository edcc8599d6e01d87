"""Figures: the values that are drawn, no global state, SVG that can share a page."""

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from lpft.report.confusion import confusion
from lpft.report.curves import MOST_POINTS, curve, curve_sheet, recorded
from lpft.report.palette import styles
from lpft.report.reliability import reliability
from lpft.report.svg import inline_svg
from results.run_folders import write_run

from lpft.report import ReportResult
from lpft.report.drawing import saved, swatch
from lpft.report.figures import accuracy_figure, feature_change_figure
from lpft.results.groups import Group, group_runs
from lpft.results.pairing import compare
from lpft.results.run import find_runs


@pytest.fixture(scope="module")
def group(report: ReportResult) -> Group:
    (found,), _ = group_runs(report.runs)
    return found


def test_nothing_global_changes(group: Group) -> None:
    before = dict(mpl.rcParams)
    saved(accuracy_figure(group, with_legend=True), "pdf")
    assert dict(mpl.rcParams) == before


def test_the_accuracy_figure_has_a_point_per_setting_and_split(group: Group) -> None:
    axes = accuracy_figure(group, with_legend=False).axes[0]
    points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() != "None"]
    expected = [
        setting.first.score(split, "accuracy")
        for split in ("test", "ood/books", "ood/hotels")
        for setting in group.settings
    ]
    assert points == expected


def test_the_feature_change_figure_has_a_row_per_match(group: Group) -> None:
    figure = feature_change_figure(compare(group), group)
    assert figure is not None
    ticks = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert ticks == [
        "FT and LP-FT\neach at its own rate",
        "FT and LP-FT\nboth at rate 5e-6, batch 8",
        "LoRA and LP-LoRA\neach at its own rate",
    ]
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert shown == {"FT 10.40", "LP-FT 3.90", "FT 4.50", "LoRA 9.10", "LP-LoRA 4.40"}


def test_reliability_counts_the_rows_of_all_seeds(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_run(tmp_path / str(seed), seed=seed, temperature=1.0 + seed)
    (found,), _ = group_runs(find_runs(tmp_path)[0])
    bins = reliability(found.settings[0], "ood/books")
    assert bins is not None
    before, after = bins
    assert before.counts.sum() == after.counts.sum() == 3 * 70
    tops = np.concatenate(
        [run.predictions["ood/books"].probabilities(run.temperature).max(1) for run in found.runs]
    )
    naive = Counter(int(np.ceil(top * 15)) - 1 for top in tops)
    assert {b: int(n) for b, n in enumerate(after.counts) if n} == dict(sorted(naive.items()))
    assert reliability(found.settings[0], "ood/absent") is None


def test_curves_are_what_the_history_says(group: Group) -> None:
    run = next(run for run in group.runs if run.method == "lp-ft")
    points = curve(run, "feature_difference")
    assert len(points) == 11
    assert points[0] == (0.0, 0.0)
    assert points[-1] == (10.0, 3.9)
    assert [name for name, _ in recorded(group)] == [
        *("loss", "validation_loss", "validation_accuracy", "feature_difference"),
        *("head_norm", "bias_norm", "logit_norm"),
    ]
    lp = next(run for run in group.runs if run.method == "lp")
    assert len(curve(lp, "head_norm")) == 1
    assert curve(lp, "loss") == []


def test_long_curves_are_means_over_stretches(tmp_path: Path) -> None:
    run = write_run(tmp_path / "ft")
    lines = [f'{{"event": "training", "epoch": {i}, "loss": {i * 2}}}' for i in range(600)]
    (run / "history.jsonl").write_text("\n".join(lines))
    points = curve(find_runs(tmp_path)[0][0], "loss")
    assert len(points) == MOST_POINTS == 150
    assert points[0] == (1.5, 3.0)
    assert points[-1] == (597.5, 1195.0)


def test_no_history_is_no_figure(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", history=False)
    (found,), _ = group_runs(find_runs(tmp_path)[0])
    assert recorded(found) == ()
    assert curve_sheet(found) is None


def test_styles_differ_in_more_than_colour(group: Group) -> None:
    looks = list(styles(group.settings).values())
    assert len({(look.marker, look.filled) for look in looks}) == len(looks) == 6
    assert len({look.colour for look in looks}) == 5


def test_methods_of_other_kinds_have_styles_too(tmp_path: Path) -> None:
    for method in ("ft", "ia3", "lp-ia3", "prefix"):
        write_run(tmp_path / method, method)
    (found,), _ = group_runs(find_runs(tmp_path)[0])
    assert [setting.label for setting in found.settings] == ["FT", "ia3", "lp-ia3", "prefix"]
    assert len({look.colour for look in styles(found.settings).values()}) == 4


def test_inline_svg_has_its_own_ids_colours_and_description(group: Group) -> None:
    figure = accuracy_figure(group, with_legend=False)
    one, two = (
        ElementTree.fromstring(inline_svg(figure, name, "Title <&>", "What it shows"))
        for name in ("one", "two")
    )
    ids = [{e.get("id") for e in root.iter() if e.get("id")} for root in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    references = {
        value.removeprefix("#")
        for element in one.iter()
        for key, value in element.attrib.items()
        if key.endswith("href")
    }
    assert references
    assert references <= ids[0]
    assert one[0].text == "Title <&>"
    assert one.get("aria-labelledby") == "one-title one-desc"
    text = inline_svg(figure, "one", "Title", "Description")
    assert "var(--fig-blue)" in text
    assert "<style" not in text
    assert "<?xml" not in text
    hidden = inline_svg(swatch(styles(group.settings)["LP"]), "key")
    assert 'aria-hidden="true"' in hidden


def test_the_confusion_matrix_counts_rows(group: Group) -> None:
    matrix = confusion(group.settings[0], group)
    predictions = group.settings[0].first.predictions["test"]
    naive = np.zeros((3, 3), dtype=int)
    for label, logits in zip(predictions.labels, predictions.logits, strict=True):
        naive[label, list(logits).index(max(logits))] += 1
    np.testing.assert_array_equal(matrix.counts, naive)
    name, cells, recall = matrix.lines[1]
    assert name == "entailment"
    assert [count for count, _, _ in cells] == list(naive[1])
    assert [right for _, _, right in cells] == [False, True, False]
    assert recall == naive[1, 1] / naive[1].sum()
    assert sum(count for *_, count in matrix.pairs) == naive.sum() - np.trace(naive)


def test_many_classes_are_listed_by_their_commonest_confusions(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", classes=tuple(f"class {i}" for i in range(20)))
    (found,), _ = group_runs(find_runs(tmp_path)[0])
    matrix = confusion(found.settings[0], found)
    assert not matrix.as_matrix
    counts = [count for *_, count in matrix.pairs]
    assert counts == sorted(counts, reverse=True)
    assert 0 < len(counts) <= 15
