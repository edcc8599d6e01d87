"""The page in a real browser: it opens quietly and never scrolls sideways."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from results.experiment_folders import hostile_experiment, sample_experiment, write_experiment
from results.interpolation_folders import write_points
from results.kernel_folders import write_kernels
from results.run_folders import write_run

from lpft.report import ReportResult, build_report

pytestmark = pytest.mark.heavy

NAMES = ("chromium", "chromium-browser", "google-chrome")
LONG = "unbroken" * 30
TABLES = {"report": 19, "kernel_report": 5, "experiment_report": 5 + 7}
"""Pages and their tables; an experiment's: verdicts, four of its own, and seven of the runs."""

# The page measures itself inside a frame of the wanted width and tells the page around it.
MEASURE = """<script>
addEventListener("load", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  const wide = [...document.querySelectorAll("body *")].filter((element) => {
    if (element.closest(".scroll, .strip, .drawing, nav, .skip")) return false;
    return element.getBoundingClientRect().right > innerWidth + 1;
  });
  parent.postMessage({
    inner: innerWidth,
    scroll: document.documentElement.scrollWidth,
    wide: wide.map((element) => element.tagName + "." + element.className),
    spilling: [...document.querySelectorAll("th, td")].filter((cell) =>
      cell.clientWidth > 0 && cell.scrollWidth > cell.clientWidth + 1
    ).map((cell) => cell.textContent.trim().slice(0, 40)),
    tables: document.querySelectorAll("table").length,
    drawn: [...document.querySelectorAll("svg")].every((svg) => svg.getBBox().width > 0),
    dark: getComputedStyle(document.body).backgroundColor,
  }, "*");
});
</script>"""
AROUND = """<!doctype html><title>measuring</title><body><script>
addEventListener("message", (event) => {
  document.body.dataset.found = JSON.stringify(event.data);
});
</script><iframe src="page.html" style="width:%dpx;height:900px;border:0"></iframe></body>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next((path for path in map(shutil.which, NAMES) if path is not None), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    return found


def browse(chromium: str, page: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Open a page headless with a profile of its own; the DOM comes back on stdout."""
    flags = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"),
    )
    return subprocess.run(
        [chromium, *flags, f"--user-data-dir={folder / 'profile'}", *more, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )


def measured(chromium: str, page: Path, folder: Path, width: int, *more: str) -> dict:
    """What the page says of itself in a window of ``width`` pixels; the console stays empty."""
    html = page.read_text(encoding="utf-8")
    (folder / "page.html").write_text(html.replace("</body>", f"{MEASURE}</body>"), "utf-8")
    around = folder / "around.html"
    around.write_text(AROUND % width, encoding="utf-8")
    done = browse(chromium, around, folder, f"--window-size={width + 100},1000", *more)
    assert "CONSOLE" not in done.stderr
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found is not None
    return json.loads(found.group(1).replace("&quot;", '"').replace("&amp;", "&"))


def assert_fits(found: dict, width: int) -> None:
    assert (found["inner"], found["wide"]) == (width, [])
    assert found["spilling"] == []  # over the cell beside it
    assert found["scroll"] <= width


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", TABLES)
def test_nothing_is_wider_than_the_window(
    chromium: str, request: pytest.FixtureRequest, tmp_path: Path, name: str, width: int
) -> None:
    report: ReportResult = request.getfixturevalue(name)
    found = measured(chromium, report.page, tmp_path, width)
    assert_fits(found, width)
    assert found["tables"] == TABLES[name]
    assert found["drawn"]


def long_runs(folder: Path) -> None:
    for method in ("ft", "lp-ft"):
        write_run(
            folder / f"{LONG[:200]}-{method}",
            method,
            classes=(LONG, "b", "c"),
            data_name=LONG,
            splits={"validation": 20, "test": 30, f"ood/{LONG[:150]}": 20},
            notes=(LONG,),
            model=f"someone/{LONG}",
            reason=LONG,
        )
    (write_run(folder / f"torn-{LONG[:200]}") / "metrics.json").unlink()


def long_kernels(folder: Path) -> None:
    write_kernels(
        folder / LONG[:200],
        samples=9,
        methods=("ft",),
        classes=(LONG, "b", "c"),
        data_name=LONG,
        model=f"someone/{LONG}",
        kernel=LONG,
        plan={LONG: LONG},
        environment={LONG: {LONG: [LONG]}},
        timings={LONG: 3.0},
    )
    bad = folder / f"bad-{LONG[:200]}"
    bad.mkdir()
    (bad / "kernels.json").write_text(f'{{"schema": "{LONG}"}}')


def long_points(folder: Path) -> None:
    for seed in range(2):
        write_points(folder / f"points {seed}", name=LONG, ood=(LONG, "b", "c"))


def long_experiments(folder: Path) -> None:
    hostile = f"<script>missing()</script>{LONG}"
    write_experiment(folder / "x", hostile_experiment(hostile))
    write_experiment(folder / "y", sample_experiment(exhibits=(), title=hostile))


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("write", [long_runs, long_kernels, long_experiments, long_points])
def test_long_and_hostile_texts_do_not_widen_the_page(
    chromium: str, tmp_path: Path, write, width: int
) -> None:
    write(tmp_path / "all")
    assert_fits(measured(chromium, build_report(tmp_path / "all").page, tmp_path, width), width)


def test_scripts_in_the_texts_of_an_experiment_do_not_run(chromium: str, tmp_path: Path) -> None:
    script = "<script>document.title = 'run'; missing()</script>"
    write_experiment(tmp_path, hostile_experiment(script))
    done = browse(chromium, build_report(tmp_path).page, tmp_path)
    assert "&lt;script&gt;document.title" in done.stdout
    assert "<title>run</title>" not in done.stdout
    assert "CONSOLE" not in done.stderr


def test_a_link_opens_what_it_leads_to_without_a_script(
    chromium: str, experiment_report: ReportResult, tmp_path: Path
) -> None:
    """Links to folded runs: the browser opens the fold."""
    html = experiment_report.page.read_text(encoding="utf-8")
    ask = """<script>addEventListener("load", () => {
      location.hash = "run-runs-cb-ft-seed0";
      requestAnimationFrame(() => requestAnimationFrame(() => {
        const run = document.getElementById("run-runs-cb-ft-seed0");
        document.body.dataset.seen = run.checkVisibility() && run.closest("details").open;
      }));
    });</script></body>"""
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", ask), encoding="utf-8")
    assert 'data-seen="true"' in browse(chromium, page, tmp_path).stdout


def test_the_checks_would_see_an_error_and_an_overflow(chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><script>missing()</script>")
    assert "CONSOLE" in browse(chromium, page, tmp_path).stderr
    page.write_text("<!doctype html><body><p style='width:900px'>wide</p></body>")
    found = measured(chromium, page, tmp_path, 400)
    assert found["scroll"] > 400
    assert found["wide"] == ["P."]


def test_dark_readers_get_a_dark_page(chromium: str, report: ReportResult, tmp_path: Path) -> None:
    dark = "--blink-settings=preferredColorScheme=0"
    light = measured(chromium, report.page, tmp_path, 1400)["dark"]
    assert light == "rgb(255, 255, 255)"
    assert measured(chromium, report.page, tmp_path, 1400, dark)["dark"] == "rgb(21, 23, 27)"
