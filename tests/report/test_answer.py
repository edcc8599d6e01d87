"""The answer to a practitioner: warnings that are true, the right winner, numbers as people say."""

import json
from pathlib import Path

import pytest
from results.run_folders import edit_json, write_run
from results.scored_runs import right_of, write_scored

from lpft.report.answer import answer
from lpft.report.build import build_report
from lpft.report.page import Answer, Cases, Fold, Section
from lpft.report.text import unbroken_options
from lpft.results.differences import judge_groups
from lpft.results.exhibits import Figure, Table
from lpft.results.groups import group_runs
from lpft.results.leaderboard import MAJORITY, leaderboard
from lpft.results.run import find_runs
from lpft.results.schema import ErrorRow, write_errors


def answered(folder: Path, *, texts: bool = True) -> Answer:
    runs = find_runs(folder)[0]
    (group,), _ = group_runs(runs if texts else [run.without_texts() for run in runs])
    board = leaderboard(group, judge_groups([group])[group.slug])
    assert board is not None
    return answer(board)


def scored(folder: Path, method: str, validation: int, test: int, seed: int = 0) -> Path:
    """So many of 100 validation and of 200 test answers are wrong, of two classes in turn."""
    right = {"validation": right_of(100, validation), "test": right_of(200, test)}
    return write_scored(folder / f"{method}-{seed}", method, seed, right)


def section(found: Answer, title: str) -> Section:
    return next(each for each in found.sections if each.title == title)


def test_the_verdict_names_the_winner_with_its_interval(tmp_path: Path) -> None:
    """170 of 200 are right: Wilson's interval is 79.4 to 89.3."""
    scored(tmp_path, "lp-ft", 5, 30)
    scored(tmp_path, "lp", 40, 100)
    found = answered(tmp_path)
    assert found.lead == "Use LP-FT"
    assert "right class to 85 of 100 test texts (95 % interval 79 to 89, from 200 texts)" in (
        found.verdict
    )
    assert "LP is less accurate." in found.verdict
    assert "rests on one seed" in found.verdict
    assert [row.entry.name for row in found.rows] == ["LP-FT", "LP", MAJORITY]
    assert [row.verdict for row in found.rows] == ["use this", "lower so far", "baseline"]
    assert found.rows[1].why.startswith("35 points lower on one seed (95 % interval")
    assert found.rows[1].why.endswith("one seed is not proof, run 5")


def test_two_seeds_are_not_proof_and_five_are(tmp_path: Path) -> None:
    for seed in range(5):
        scored(tmp_path / "five", "lp-ft", 5, 40, seed)
        scored(tmp_path / "five", "ft", 20, 90 + seed, seed)
        if seed < 2:
            scored(tmp_path / "two", "lp-ft", 5, 40, seed)
            scored(tmp_path / "two", "ft", 20, 92, seed)
    two, five = answered(tmp_path / "two"), answered(tmp_path / "five")
    assert two.rows[1].why.startswith("26 points lower on both seeds")
    assert two.rows[1].why.endswith("two seeds are not proof, run 5")
    assert "2 seeds, which are not proof" in two.verdict
    assert (five.rows[1].verdict, five.rows[1].state) == ("lower", "bad")
    assert "proof" not in five.rows[1].why + five.verdict


def test_no_clear_difference_is_said_and_the_simpler_method_named(tmp_path: Path) -> None:
    """On validation LP-FT is clearly ahead; on test the two differ in 2 of 200 rows."""
    scored(tmp_path, "lp-ft", 5, 40)
    scored(tmp_path, "lp", 20, 42)
    found = answered(tmp_path)
    assert "no clear difference from LP, which is simpler and trained in 24\u00a0s" in found.verdict
    assert found.rows[1].verdict == "no clear difference"
    assert "contains 0" in found.rows[1].why


@pytest.mark.parametrize("tested", [True, False])
def test_the_missing_test_set_is_a_warning_iff_it_is_missing(tmp_path: Path, tested: bool) -> None:
    right = {"validation": right_of(100, 10)} | ({"test": right_of(100, 10)} if tested else {})
    write_scored(tmp_path / "lp", "lp", 0, right)
    found = answered(tmp_path)
    assert bool(found.warnings) is not tested
    assert any("no test set" in warning for warning in found.warnings) is not tested


def test_one_run_of_few_rows_is_counted_in_these_rows(tmp_path: Path) -> None:
    write_scored(tmp_path / "ft", "ft", 0, {"validation": right_of(40, 4)})
    found = answered(tmp_path)
    assert found.title.startswith("How good FT is on “")
    assert "right class to 36 of 40 validation texts" in found.verdict
    assert found.tiles[0].number == "36 of 40"
    assert "rank the methods" not in found.verdict


def test_leaks_undertraining_and_few_validation_rows_are_warnings(tmp_path: Path) -> None:
    folder = write_scored(
        tmp_path / "ft", "ft", 0, {"validation": right_of(20, 2), "test": right_of(100, 10)}
    )
    leak = {
        "level": "warning",
        "kind": "leakage",
        "message": "2 of 100 rows of test are also in training",
        "rows": {"train": [3, 17], "test": [9, 60]},
    }
    other = {"level": "warning", "kind": "markup", "message": "1 text has markup", "rows": {}}
    edit_json(folder / "run.json", findings=[leak, other], undertrained=["the last epoch is best"])
    found = answered(tmp_path)
    assert found.warnings == (
        "2 of 100 rows of test are also in training.",
        "FT may be undertrained: the last epoch is best. It can be used as it is; more epochs or "
        "a higher learning rate may improve it.",
        "Only 20 validation rows: the choice of the epoch, and the probabilities, rest on them.",
    )
    assert found.tiles[3].number == "2 findings"
    table = next(
        block for block in section(found, "Data").blocks if isinstance(block, Table) and block.rows
    )
    assert table.rows[0] == ("warning", leak["message"], "train 3, 17; test 9, 60")


def test_a_model_no_better_than_a_constant_is_a_warning(tmp_path: Path) -> None:
    """Half of the rows are of either class; 105 of 200 right is no more than chance."""
    scored(tmp_path, "lp", 45, 95)
    (warning,) = answered(tmp_path).warnings
    assert "Not clearly better than always answering" in warning
    assert "50 of 100" in warning


def test_data_is_clean_only_where_it_was_checked(tmp_path: Path) -> None:
    folder = scored(tmp_path, "lp", 5, 10)
    tile = answered(tmp_path).tiles[3]
    assert (tile.state, tile.answer) == ("unknown", "not checked")
    edit_json(folder / "run.json", findings=[])
    assert answered(tmp_path).tiles[3].state == "good"
    note = {"level": "note", "kind": "label-errors", "message": "look at these rows", "rows": {}}
    edit_json(folder / "run.json", findings=[note])
    tile = answered(tmp_path).tiles[3]
    assert (tile.state, tile.number) == ("good", "0")  # a note is no fault
    repeated = {"level": "warning", "kind": "duplicates", "message": "4 rows repeat", "rows": {}}
    leak = {"level": "warning", "kind": "leakage", "message": "7 rows leak", "rows": {}}
    edit_json(folder / "run.json", findings=[repeated, leak, note])
    tile = answered(tmp_path).tiles[3]
    assert (tile.number, tile.text) == ("2 findings", "7 rows leak, and 1 more.")


def test_options_on_the_page_do_not_break_across_lines(tmp_path: Path) -> None:
    scored(tmp_path, "lp", 5, 10)
    page = build_report(tmp_path).page.read_text(encoding="utf-8")
    assert '<span class="option">--method</span> auto' in page
    assert str(unbroken_options("<b> --head-scale 5; a--b")) == (
        '&lt;b&gt; <span class="option">--head-scale</span> 5; a--b'
    )


def test_probabilities_that_the_temperature_made_worse_are_not_called_faultless(
    tmp_path: Path,
) -> None:
    """A tenth is wrong, and with a temperature of a quarter they are stated with certainty."""
    right = {"validation": right_of(100, 10), "test": right_of(200, 20)}
    write_scored(tmp_path / "lp", "lp", 0, right, temperature=0.25)
    found = answered(tmp_path)
    tile = found.tiles[1]
    assert (tile.state, tile.answer) == ("doubtful", "worse by its temperature")
    assert "it raises the NLL from" in tile.text
    note = str(section(found, "Probabilities").blocks[0])
    assert "makes them worse on these texts" in note
    assert "these show no fault" not in note


def test_errors_are_by_pair_with_texts_unless_these_must_not_leave(tmp_path: Path) -> None:
    folder = scored(tmp_path, "lp", 5, 3)
    row = ErrorRow(
        split="test", row=7, id="1", label="yes", predicted="no", confidence=0.9, text="secret"
    )
    write_errors(folder, [row])

    def cases(found: Answer) -> Cases:
        (one,) = (b for b in section(found, "Errors").blocks if isinstance(b, Cases))
        return one

    shown = cases(answered(tmp_path))
    # Rows 0, 1 and 2 are wrong, of classes no, yes and no.
    assert [(label, called, count) for label, called, count, _ in shown.pairs] == [
        ("no", "yes", 2),
        ("yes", "no", 1),
    ]
    assert [(text, name) for *_, rows in shown.pairs for _, text, name in rows] == [
        ("", "id 0"),
        ("", "id 2"),
        ("secret", "row 7"),
    ]
    write_errors(folder, [row, row.model_copy(update={"id": "2", "row": 8, "label": "no"})])
    rows = cases(answered(tmp_path)).pairs[0][3]
    assert [name for *_, name in rows] == ["row 8"]  # and not row 0, which was not recorded
    write_errors(folder, [row])
    hidden = cases(answered(tmp_path, texts=False))
    assert "secret" not in str(hidden)
    assert hidden.pairs[1][3][0][1:] == ("", "row 7")


def test_every_split_has_its_classes(tmp_path: Path) -> None:
    write_run(tmp_path / "ft")
    errors = section(answered(tmp_path), "Errors").blocks
    (own,) = (block for block in errors if isinstance(block, Table))
    (fold,) = (block for block in errors if isinstance(block, Fold))
    assert [table.title for table in (own, *fold.blocks) if isinstance(table, Table)] == [
        *("By class on test", "By class on validation"),
        *("By class on ood/books", "By class on ood/hotels"),
    ]


def test_runs_of_unknown_methods_and_other_sets_have_an_answer(tmp_path: Path) -> None:
    """A method that this version does not have, and OOD sets that only some runs have."""
    write_run(tmp_path / "a", "lp", splits={"validation": 20, "test": 30})
    write_run(tmp_path / "b", "novel", splits={"validation": 20, "test": 30, "ood/far": 10})
    found = answered(tmp_path)
    assert {row.entry.name for row in found.rows} == {"LP", "novel", MAJORITY}


def test_the_kept_epoch_and_a_probe_that_won_are_said(tmp_path: Path) -> None:
    folder = scored(tmp_path, "lp-ft", 5, 10)
    kept = {"epoch": 0, "epochs": 10, "metric": "accuracy", "probe_won": True}
    kept |= {"note": "No epoch was better, so the probe was kept."}
    folds = {"kind": "folds", "rows": 120, "folds": 5}
    edit_json(folder / "run.json", checkpoint=kept, validation=folds)
    said = " ".join(b for b in section(answered(tmp_path), "Training").blocks if isinstance(b, str))
    assert "LP-FT: No epoch was better, so the probe was kept." in said
    assert "120 validation rows" in said
    assert "5 folds" in said
    edit_json(folder / "run.json", checkpoint=kept | {"epoch": 3, "probe_won": False, "note": None})
    said = " ".join(b for b in section(answered(tmp_path), "Training").blocks if isinstance(b, str))
    assert "epoch 3 of 10 was kept" in said


def test_the_command_has_the_settings_but_no_folders(tmp_path: Path) -> None:
    write_run(
        tmp_path / "ft",
        train_file="/data/someone/train set.csv",
        ood={"books": "/data/someone/books.csv"},
        max_length=256,
    )
    command = str(section(answered(tmp_path), "How to repeat it").blocks[1])
    assert "someone" not in command
    for part in ("--train-file 'train set.csv'", "--ood books=books.csv", "--max-length 256"):
        assert part in command
    assert "--method ft" in command
    assert "--seed" not in command  # 0 is the default


def test_runs_of_earlier_versions_have_an_answer(tmp_path: Path) -> None:
    """Records without timings, findings, versions or history."""
    folder = write_run(tmp_path / "lp", "lp", history=False)
    record = json.loads((folder / "run.json").read_text())
    for name in ("timings", "versions", "device", "calibration", "finished", "started"):
        record.pop(name, None)
    (folder / "run.json").write_text(json.dumps(record))
    found = answered(tmp_path)
    assert found.subtitle == "Base model minilm · 1 run"
    assert found.lead == "Use LP"


def test_rows_that_folds_scored_are_not_counted_twice(tmp_path: Path) -> None:
    """Linear probing by folds: its 100 validation rows are those that it was trained on."""
    folder = scored(tmp_path, "lp", 5, 10)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    data = run["data"] | {
        "rows": {"train": 100, "validation": 100, "test": 200},
        "train_class_rows": [50, 50],
    }
    folds = {"kind": "folds", "rows": 100, "folds": 5}
    edit_json(folder / "run.json", data=data, validation=folds)
    blocks = section(answered(tmp_path), "Data").blocks
    assert "rows: 100 train and 200 test." in str(blocks[0])
    (balance,) = (block for block in blocks if isinstance(block, Table) and "class" in block.title)
    assert [column.name for column in balance.columns] == ["Class", "train", "test"]
    edit_json(folder / "run.json", validation=folds | {"kind": "held-out", "folds": None})
    (text, *_) = section(answered(tmp_path), "Data").blocks
    assert "100 train, 100 validation and 200 test" in str(text)


def test_linear_probing_alone_has_no_curve(tmp_path: Path) -> None:
    """It has a single point, before any epoch."""
    write_run(tmp_path / "lp", "lp")
    blocks = section(answered(tmp_path), "Training").blocks
    assert not any(isinstance(block, Figure) for block in blocks)
    write_run(tmp_path / "ft", "ft")
    blocks = section(answered(tmp_path), "Training").blocks
    assert any(isinstance(block, Figure) for block in blocks)
