"""Reading experiments: what is written comes back, what is damaged is listed with its reason."""

import functools
import json
import operator
from pathlib import Path
from typing import Any

import pytest
from results.experiment_folders import sample_experiment, write_experiment
from results.run_folders import write_run

from lpft.errors import InputError
from lpft.report import build_report
from lpft.results.exhibits import ExperimentRecord, Table, find_experiments, read_experiment
from lpft.results.schema import UnusableRecord, parsed

Written = dict[str, Any]
GONE = object()


def written() -> Written:
    """The sample as JSON reads it."""
    record: Written = json.loads(json.dumps(sample_experiment().as_json()))
    return record


def reread(record: Written) -> ExperimentRecord:
    """As from a file that holds ``record``."""
    return read_experiment(parsed(json.dumps(record), "experiment.json", printable=True))


def test_what_is_written_comes_back() -> None:
    assert reread(written()) == sample_experiment()
    assert len(sample_experiment().exhibits) == 9


def test_experiments_are_found_at_any_depth_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("figure10", "figure2", "claims", "table8"):
        write_experiment(tmp_path / "deep" / name, sample_experiment(name=name, exhibits=()))
    write_experiment(tmp_path / ".hidden", sample_experiment())
    found, unread = find_experiments(tmp_path)
    assert [experiment.record.name for experiment in found] == [
        *("claims", "figure2", "figure10", "table8")
    ]
    assert found[0].name == "deep/claims"
    assert unread == ()


DAMAGES = {
    "exhibits 0 rows 1 3": (GONE, "exhibit sample-scores: row 1 has 3 cells, expected 4"),
    "exhibits 0 rows 0 1": (None, "exhibit sample-scores: row 0 has no name"),
    "exhibits 0 headers": (9, "9 of its 4 columns name the rows"),
    "exhibits 4 panels 0 series 0 y 7": (
        GONE,
        "exhibit head-scale-cb: panel 'test': FT: 8 x and 7 y",
    ),
    "exhibits 4 panels 0 series 0 high": ([1.0], "FT: 8 x and 1 high"),
    "exhibits 7 panels 0 series 3 texts": (["one"], "rows of the head: 3 x and 1 texts"),
    "exhibits 8 panels 0 matrix 3": (
        [1.0],
        "exhibit maps: panel 'P': a matrix that is not square, of 38 rows",
    ),
    "exhibits 8 panels 0 bounds 2 1": (5, r"classes begin at rows \[0, 12, 5\]"),
    "exhibits 8 panels 0 matrix": (None, "a heat map without a matrix"),
    "exhibits 4 panels 0 matrix": ([[1.0]], "a matrix in a figure of lines"),
    "exhibits 0 rows 0 2 value": ("many", "exhibits/0/table/rows/0/2"),
    "exhibits 4 kind": ("pie", "exhibits/4/figure/kind: Input should be 'lines'"),
    "exhibits 0 exhibit": ("poem", "exhibits/0: .*'poem'.* 'table', 'figure'"),
    "verdicts 1 verdict": ("perhaps", "verdicts/1/verdict"),
    "title": (GONE, "title: Field required"),
    "failures": ([["runs/a"]], "failures/0/1"),
    "exhibits": (3, "experiment.json: "),
    "exhibits 8 panels 0 matrix 0 0": (float("inf"), "matrix/0/0"),
}
"""Places of a record, what is put there, and what is said of it."""


@pytest.mark.parametrize("place", DAMAGES)
def test_a_damaged_record_says_what_is_wrong(place: str) -> None:
    value, reason = DAMAGES[place]
    record = written()
    *parents, last = (int(key) if key.isdigit() else key for key in place.split())
    inside: Any = functools.reduce(operator.getitem, parents, record)
    if value is GONE:
        del inside[last]
    else:
        inside[last] = value
    with pytest.raises(UnusableRecord, match=reason) as caught:
        reread(record)
    assert str(caught.value).startswith("experiment.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "state", "reason"),
    [
        ("{", "damaged", "experiment.json is not JSON"),
        ("[]", "damaged", "experiment.json is not a JSON object"),
        ('{"schema": 2}', "foreign", "schema is 2, expected 1, which lpft reproduce writes"),
        ("{}", "foreign", "schema is None"),
        ('{"schema": 1}', "damaged", "Field required"),
        ("[" * 100_000, "damaged", "experiment.json is not JSON"),
        ('{"schema": 1, "exhibits": ' + "[" * 900 + "]" * 900 + "}", "damaged", "experiment.json"),
    ],
)
def test_what_cannot_be_read_is_listed(tmp_path: Path, text: str, state: str, reason: str) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "experiment.json").write_text(text)
    found, (unread,) = find_experiments(tmp_path)
    assert found == ()
    assert (unread.name, unread.state, unread.holds) == ("bad", state, "experiment")
    assert reason in unread.reason


def test_what_cannot_be_read_is_on_the_page_beside_what_can(tmp_path: Path) -> None:
    write_run(tmp_path / "ft")
    (tmp_path / "experiment.json").write_text("{")
    page = build_report(tmp_path).page.read_text(encoding="utf-8")
    assert "1 experiment folder below this one is not included in any number here" in page


def test_bytes_that_are_no_text_are_listed(tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read") as caught:
        build_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_numbers_that_are_not_finite_are_absent() -> None:
    record = written()
    cell = record["exhibits"][0]["rows"][0][2]
    cell["value"], cell["sd"] = float("nan"), float("inf")
    table = reread(record).exhibits[0]
    assert isinstance(table, Table)
    estimate = table.rows[0][2]
    assert not isinstance(estimate, str)
    assert estimate is not None
    assert (estimate.value, estimate.sd) == (None, None)


def test_keys_of_later_versions_do_not_disturb() -> None:
    record = written()
    record["later"] = {"a": 1}
    record["exhibits"][0]["rows"][0][2]["later"] = 1
    assert reread(record) == sample_experiment()


def test_texts_lose_what_cannot_be_printed() -> None:
    record = written() | {"title": "a\u0001b\u2028c", "failures": [["run", "first\r\n\tsecond"]]}
    found: ExperimentRecord = reread(record)
    assert found.title == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert found.failures == (("run", "first second"),)
