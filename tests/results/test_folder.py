"""A run's folder: what may be replaced, what is never touched, who may write."""

import json

import pytest

from lpft.errors import InputError
from lpft.results.folder import check_output, clear, locked, read_record
from lpft.results.saved import open_saved


def record(folder, **changes):
    written = {
        "status": "finished",
        "config": {},
        "data": {},
        "files": ["config.json", "predictions/test.parquet"],
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(written))
    for name in ("config.json", "history.jsonl", "predictions/test.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_clearing_removes_the_runs_files_and_leaves_the_users(tmp_path):
    folder = record(tmp_path / "run")
    (folder / "predictions/mine.parquet").write_text("mine")
    (folder / "report.html").write_text("page")
    clear(folder, read_record(folder))
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert left == {"predictions", "predictions/mine.parquet", "report.html"}


def test_a_report_beside_a_new_run_stays(tmp_path):
    (tmp_path / "report.html").write_text("page")
    assert check_output(tmp_path, resume=False, overwrite=False) is None
    clear(tmp_path, None)
    assert (tmp_path / "report.html").read_text() == "page"


@pytest.mark.parametrize("files", [["../x"], ["/x"], [""], [3], "config.json", ["a/../../x"]])
def test_a_record_that_points_outside_its_folder_is_refused(tmp_path, files):
    folder = record(tmp_path / "run", files=files)
    (tmp_path / "x").write_text("precious")
    with pytest.raises(InputError, match="files"):
        check_output(folder, resume=False, overwrite=True)
    assert (tmp_path / "x").read_text() == "precious"


def test_foreign_files_are_refused_even_with_overwrite(tmp_path):
    folder = record(tmp_path / "run")
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        check_output(folder, resume=False, overwrite=True)


def test_two_processes_cannot_hold_one_folder(tmp_path):
    with (
        locked(tmp_path / "run"),
        pytest.raises(InputError, match="another process"),
        locked(tmp_path / "run"),
    ):
        pass
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_an_unfinished_run_is_not_opened(tmp_path, status):
    folder = record(tmp_path / "run", status=status)
    with pytest.raises(InputError, match=f"is {status}, not finished"):
        open_saved(folder)


def test_a_users_own_work_folder_is_foreign(tmp_path):
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work/thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"\.work"):
        check_output(tmp_path, resume=False, overwrite=False)
