"""The page for trying texts, in a real browser: keys, bars, sizes, hostile texts, the end."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chromium import Page, browser
from exportable import CLASSES, classifier_of, expected_logits, saved, softmax

from lpft.results.saved import open_saved
from lpft.serve.server import listen
from lpft.settings.commands import ServingSettings

uvicorn = pytest.importorskip("uvicorn", reason="the serve extra is not installed")
fastapi = pytest.importorskip("fastapi", reason="the serve extra is not installed")
pytestmark = pytest.mark.heavy

SCRIPT = "<img src=x onerror=\"document.title='run'\"><script>document.title = 'run'</script>"
LONG = "unbroken" * 60
TAB, ENTER, SPACE = ("Tab", 9), ("Enter", 13), (" ", 32)
ANSWERED = "!document.getElementById('answer').hidden"
REFUSED = "!document.getElementById('problem').hidden"
LABEL = "document.getElementById('label').textContent"
FITS = """[...document.querySelectorAll("body *")].filter(
  (element) => element.getBoundingClientRect().right > innerWidth + 1
).map((element) => element.tagName + "." + element.className)"""
BARS = """[...document.querySelectorAll("#bars li")].map((row) => [
  row.querySelector(".name").textContent,
  row.querySelector(".share").textContent,
  row.querySelector(".track span").getBoundingClientRect().width
    / row.querySelector(".track").getBoundingClientRect().width,
])"""


@contextmanager
def service(folder: Path, below: float | None = None) -> Iterator[str]:
    """The address of a service of this process."""
    from lpft.serve.app import make_app

    app = make_app(open_saved(folder, "cpu"), ServingSettings(), below)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def picture(page: Page, name: str) -> None:
    """A screenshot to look at, where LPFT_TEST_PICTURES names a folder."""
    if folder := os.environ.get("LPFT_TEST_PICTURES"):
        page.screenshot(Path(folder) / f"{name}.png")


def begin(page: Page, url: str, width: int = 1400, *, dark: bool = False) -> None:
    page.window(width, dark=dark)
    page.complaints.clear()
    page.requests.clear()
    page.open(url)
    page.until("document.activeElement.id === 'first'")  # the browser puts it there a little later


@pytest.mark.parametrize("width", [400, 1400])
def test_a_text_is_typed_and_answered_with_label_and_bars(page, width, tmp_path):
    classifier = classifier_of("bert", "mean")
    (row,) = softmax(expected_logits(classifier, ["good film"]))
    below = float(row.max()) + 0.001
    with service(saved(classifier, tmp_path / "reviews"), below) as url:
        begin(page, url, width)
        page.write("good film")
        page.press(*ENTER, control=True)
        page.until(ANSWERED)
        assert page.value(LABEL) == CLASSES[row.argmax()]
        assert page.value("!document.getElementById('abstained').hidden")
        bars = page.value(BARS)
        expected = sorted(zip(CLASSES, row, strict=True), key=lambda one: -one[1])
        for (name, share, length), (label, probability) in zip(bars, expected, strict=True):
            assert (name, share) == (label, f"{100 * probability:.1f}%")
            assert length == pytest.approx(probability, abs=0.01)
        assert page.value(FITS) == []
        assert page.value("document.documentElement.scrollWidth") <= width
        picture(page, f"text-{width}")
    assert page.complaints == []
    assert all(one.startswith((url, "data:")) for one in page.requests)
    assert sum(one == f"{url}predict" for one in page.requests) == 1


def test_pairs_have_two_fields_and_the_keyboard_is_enough(page, tmp_path):
    classifier = classifier_of("bert", "mean", paired=True)
    (row,) = softmax(expected_logits(classifier, [("the film was good", "a poor meal")]))
    with service(saved(classifier, tmp_path / "pairs")) as url:
        begin(page, url, 400, dark=True)
        page.write("the film was good")
        page.press(*TAB)
        assert page.value("document.activeElement.id") == "second"
        page.write("a poor meal")
        page.press(*TAB)
        assert page.value("document.activeElement.textContent") == "Classify"
        page.press(*SPACE)
        page.until(ANSWERED)
        assert page.value(LABEL) == CLASSES[row.argmax()]
        assert page.value("document.getElementById('abstained').hidden")
        assert page.value(FITS) == []
        background = "getComputedStyle(document.body).backgroundColor"
        assert page.value(background) == "rgb(21, 23, 27)"
        picture(page, "pairs-400-dark")
        page.window(1400)
        assert page.value(background) == "rgb(255, 255, 255)"
        names = "[...document.querySelectorAll('textarea')].map((one) => one.labels[0].textContent)"
        assert page.value(names) == ["First text", "Second text"]
        picture(page, "pairs-1400")
    assert page.complaints == []


def test_hostile_texts_and_class_names_are_shown_and_never_run(page, tmp_path):
    classes = (SCRIPT, LONG, "c")
    with service(
        saved(classifier_of("bert", "mean", classes=classes), tmp_path / LONG[:200])
    ) as url:
        for width in (400, 1400):
            begin(page, url, width)
            page.write(f"{SCRIPT} {LONG}")
            page.press(*ENTER, control=True)
            page.until(ANSWERED)
            assert {name for name, _, _ in page.value(BARS)} == set(classes)
            assert page.value("document.querySelectorAll('img, main script').length") == 0
            assert page.value("document.title") == LONG[:200]
            assert page.value(FITS) == []
        picture(page, "hostile-1400")
    assert page.complaints == []


def test_a_refusal_and_a_service_that_has_gone_are_said(page, tmp_path):
    with service(saved(classifier_of("bert", "mean"), tmp_path / "reviews")) as url:
        begin(page, url)
        page.write("   ")
        page.press(*ENTER, control=True)
        page.until(REFUSED)
        problem = "document.getElementById('problem').textContent"
        assert "empty" in page.value(problem)
        picture(page, "refused-1400")
        page.write("good")
        page.press(*ENTER, control=True)
        page.until(ANSWERED)
        assert not page.value(REFUSED)
    page.press(*ENTER, control=True)
    page.until(REFUSED)
    assert "does not answer" in page.value(problem)
    assert not page.value(ANSWERED)
    assert page.value("!document.querySelector('button').disabled")


def test_of_many_classes_the_likeliest_are_shown_first_and_all_where_wanted(page, tmp_path):
    classes = tuple(f"class {number}" for number in range(30))
    with service(saved(classifier_of("bert", "mean", classes=classes), tmp_path / "many")) as url:
        begin(page, url, dark=True)
        page.write("good")
        page.press(*ENTER, control=True)
        page.until(ANSWERED)
        first = page.value(BARS)
        assert len(first) == 10
        assert page.value("document.getElementById('more').textContent") == "Show all 30 classes"
        page.value("document.getElementById('more').focus()")
        picture(page, "many-1400-dark")
        page.press(*SPACE)
        page.until("document.querySelectorAll('#bars li').length === 30")
        every = page.value(BARS)
        assert every[:10] == first
        shares = [float(share.rstrip("%")) for _, share, _ in every]
        assert shares == sorted(shares, reverse=True)
        assert {name for name, _, _ in every} == set(classes)
    assert page.complaints == []
