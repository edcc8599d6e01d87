"""The page in a real browser: it opens quietly and never scrolls sideways."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from results.experiment_folders import hostile_experiment, sample_experiment, write_experiment
from results.kernel_folders import write_kernels
from results.run_folders import write_run

from lpft.report import ReportResult, build_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (400, 1400)

# The page measures itself inside a frame of the wanted width and tells the page around it.
MEASURE = """<script>
addEventListener("load", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  const wide = [...document.querySelectorAll("body *")].filter((element) => {
    if (element.closest(".scroll, .strip, .drawing, nav, .skip")) return false;
    return element.getBoundingClientRect().right > innerWidth + 1;
  });
  const root = document.documentElement;
  parent.postMessage({
    inner: innerWidth,
    scroll: root.scrollWidth,
    height: root.scrollHeight,
    wide: wide.map((element) => element.tagName + "." + element.className),
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
        timeout=120,
        check=True,
    )


def measured(chromium: str, page: Path, folder: Path, width: int, *more: str) -> dict:
    """What the page says of itself in a window of ``width`` pixels."""
    html = page.read_text(encoding="utf-8")
    assert html.count("</body>") == 1
    (folder / "page.html").write_text(html.replace("</body>", f"{MEASURE}</body>"), "utf-8")
    around = folder / "around.html"
    around.write_text(AROUND % width, encoding="utf-8")
    dom = browse(chromium, around, folder, f"--window-size={width + 100},1000", *more).stdout
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found is not None
    return json.loads(found.group(1).replace("&quot;", '"').replace("&amp;", "&"))


def test_it_opens_without_a_word_on_the_console(
    chromium: str, report: ReportResult, tmp_path: Path
) -> None:
    done = browse(chromium, report.page, tmp_path)
    assert "How each run was made" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []


def test_the_console_check_would_see_an_error(chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><script>missing()</script>")
    assert "CONSOLE" in browse(chromium, page, tmp_path).stderr


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(
    chromium: str, report: ReportResult, tmp_path: Path, width: int
) -> None:
    found = measured(chromium, report.page, tmp_path, width)
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["tables"] == 12
    assert found["drawn"]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_of_kernels_is_no_wider_than_the_window(
    chromium: str, kernel_report: ReportResult, tmp_path: Path, width: int
) -> None:
    found = measured(chromium, kernel_report.page, tmp_path, width)
    assert (found["inner"], found["wide"]) == (width, [])
    assert found["scroll"] <= width
    assert found["tables"] == 5
    assert found["drawn"]


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_of_kernels_do_not_widen_the_page(
    chromium: str, tmp_path: Path, width: int
) -> None:
    long = "unbroken" * 30
    write_kernels(
        tmp_path / "k" / long[:200],
        samples=9,
        methods=("ft",),
        classes=(long, "b", "c"),
        data_name=long,
        model=f"someone/{long}",
        kernel=long,
        plan={long: long},
        environment={long: {long: [long]}},
        timings={long: 3.0},
    )
    (tmp_path / "k" / f"bad-{long[:200]}").mkdir()
    (tmp_path / "k" / f"bad-{long[:200]}" / "kernels.json").write_text(f'{{"schema": "{long}"}}')
    found = measured(chromium, build_report(tmp_path / "k").page, tmp_path, width)
    assert (found["inner"], found["wide"]) == (width, [])
    assert found["scroll"] <= width


def test_kernels_open_without_a_word_on_the_console(
    chromium: str, kernel_report: ReportResult, tmp_path: Path
) -> None:
    done = browse(chromium, kernel_report.page, tmp_path)
    assert "Kernel regression under both protocols" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_do_not_widen_the_page(chromium: str, tmp_path: Path, width: int) -> None:
    long = "unbroken" * 30
    for method in ("ft", "lp-ft"):
        write_run(
            tmp_path / "runs" / f"{long[:200]}-{method}",
            method,
            classes=(long, "b", "c"),
            data_name=long,
            splits={"validation": 20, "test": 30, f"ood/{long[:150]}": 20},
            notes=(long,),
            model=f"someone/{long}",
            reason=long,
        )
    (write_run(tmp_path / "runs" / f"torn-{long[:200]}") / "metrics.json").unlink()
    page = build_report(tmp_path / "runs").page
    found = measured(chromium, page, tmp_path, width)
    assert (found["inner"], found["wide"]) == (width, [])
    assert found["scroll"] <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_an_experiment_is_no_wider_than_the_window(
    chromium: str, experiment_report: ReportResult, tmp_path: Path, width: int
) -> None:
    found = measured(chromium, experiment_report.page, tmp_path, width)
    assert (found["inner"], found["wide"]) == (width, [])
    assert found["scroll"] <= width
    # Verdicts, four tables, and seven of the runs behind.
    assert found["tables"] == 5 + 7
    assert found["drawn"]


@pytest.mark.parametrize("width", WIDTHS)
def test_long_and_hostile_texts_of_an_experiment_do_not_widen_the_page(
    chromium: str, tmp_path: Path, width: int
) -> None:
    long = "<script>missing()</script>" + "unbroken" * 30
    write_experiment(tmp_path / "x", hostile_experiment(long))
    write_experiment(tmp_path / "y", sample_experiment(exhibits=(), title=long))
    found = measured(chromium, build_report(tmp_path).page, tmp_path, width)
    assert (found["inner"], found["wide"]) == (width, [])
    assert found["scroll"] <= width


def test_an_experiment_opens_without_a_word_on_the_console(
    chromium: str, experiment_report: ReportResult, tmp_path: Path
) -> None:
    done = browse(chromium, experiment_report.page, tmp_path)
    assert "Verdicts on the paper’s claims" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []


def test_scripts_in_the_texts_of_an_experiment_do_not_run(chromium: str, tmp_path: Path) -> None:
    script = "<script>document.title = 'run'; missing()</script>"
    write_experiment(tmp_path, hostile_experiment(script))
    done = browse(chromium, build_report(tmp_path).page, tmp_path)
    assert "&lt;script&gt;document.title" in done.stdout
    assert "<title>run</title>" not in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []


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


def test_the_measure_would_see_an_overflow(chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "wide.html"
    page.write_text("<!doctype html><body><p style='width:900px'>wide</p></body>")
    found = measured(chromium, page, tmp_path, 400)
    assert found["scroll"] > 400
    assert found["wide"] == ["P."]


def test_dark_readers_get_a_dark_page(chromium: str, report: ReportResult, tmp_path: Path) -> None:
    dark = "--blink-settings=preferredColorScheme=0"
    light = measured(chromium, report.page, tmp_path, 1400)["dark"]
    assert light == "rgb(255, 255, 255)"
    assert measured(chromium, report.page, tmp_path, 1400, dark)["dark"] == "rgb(21, 23, 27)"
