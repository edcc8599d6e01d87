"""Make the pictures of the tutorials again, into docs/tutorials/pictures.

    python docs/pictures.py kernels                  # of the packaged model; some minutes
    python docs/pictures.py training --runs DIR      # head norm and feature change by epoch
    python docs/pictures.py screenshots --runs DIR   # parts of the report; needs Chromium
    python docs/pictures.py readme --runs DEMO --printed FILE   # the README's, of lpft demo

DIR has the runs lp, ft and lp-ft of docs/tutorials/out-of-distribution.md and their page; for the
picture of trainings also lp-ft-scale-1, the same as lp-ft with --head-scale 1. DEMO is the folder
of a finished lpft demo, FILE what it printed.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageChops
from scipy.special import softmax

from lpft import TextClassifier
from lpft.data import TextData, load_task
from lpft.data.tokens import tokenize
from lpft.ntk import empirical_ntks
from lpft.ntk.dynamics import FirstStep
from lpft.ntk.statistics import ft_ratio, heat_map

matplotlib.use("svg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).resolve().parent / "tutorials/pictures"
FIRST_SCREEN = 840
"""Height of the picture of the demo's page in the README."""

TEXTS = 24
SCALES = 2.0 ** np.arange(-4, 5)
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lpft",
    "figure.constrained_layout.use": True,
}
BLUE, ORANGE, GREY = "#3f51b5", "#e07b00", "#777777"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("kernels", "training", "screenshots", "readme"))
    parser.add_argument("--runs", type=Path, help="folder of the tutorials' runs, with report.html")
    parser.add_argument("--printed", type=Path, help="what lpft demo printed")
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if arguments.what == "kernels":
        kernels()
    elif arguments.runs is None:
        parser.error(f"--runs is needed for {arguments.what}: the folder of the tutorials' runs")
    elif arguments.what == "training":
        training_picture(arguments.runs)
    elif arguments.what == "readme":
        if arguments.printed is None:
            parser.error("--printed is needed: a file of what lpft demo printed")
        first_screen(arguments.runs)
        terminal(arguments.printed.read_text(encoding="utf-8"))
    else:
        screenshots(arguments.runs)


# --- drawings


def kernels() -> None:
    """Pictures of kernels and of a first step; the numbers that the text cites are printed."""
    data = load_task("demo")
    probe = TextClassifier("minilm", method="lp", device="cpu").fit(
        data.train.texts, np.asarray(data.train.labels)
    )
    texts, labels = some_texts(data)
    kernel_pictures(probe, texts, labels, [str(name) for name in data.classes])
    head_scale_picture(probe, texts, labels)


def some_texts(data: TextData) -> tuple[list[str], np.ndarray]:
    """The first training texts of each class, class by class."""
    each = TEXTS // len(data.classes)
    labels = np.asarray(data.train.labels)
    rows = np.concatenate([np.flatnonzero(labels == c)[:each] for c in range(len(data.classes))])
    return [data.train.texts[row] for row in rows], labels[rows]


def kernel_pictures(
    probe: TextClassifier, texts: list[str], labels: np.ndarray, names: list[str]
) -> None:
    """P, and F under a random and under a probed head: the trace norm of each pair's block."""
    untrained = TextClassifier.untrained("minilm", list(probe.classes_), seed=0)
    heads = {"random": untrained.model_.head, "probe": probe.model_.head}
    found = empirical_ntks(probe, heads, texts, device="cpu")
    classes = len(names)
    pretrain = found["probe"].pretrain_effective
    assert pretrain is not None  # a classifier has a head
    panels = {
        "P": classes * pretrain.numpy(),
        "F from a random head": heat_map(found["random"].ft_effective),
        "F from the head of LP": heat_map(found["probe"].ft_effective),
    }
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7))
        for axis, (title, values) in zip(axes, panels.items(), strict=True):
            image = axis.imshow(np.abs(values), cmap="magma", vmin=0)
            figure.colorbar(image, ax=axis, shrink=0.75)
            axis.set_title(title, fontsize=8.5)
            middles = (np.arange(classes) + 0.5) * TEXTS / classes - 0.5
            axis.set_xticks(middles, names, fontsize=7)
            axis.set_yticks(middles, names, fontsize=7, rotation=90, va="center")
        save(figure, "p-and-f")
    ratios, norms = {}, {}
    for name, kernel in found.items():
        head = heads[name]
        logits = (kernel.row_features @ head.weight.T.double() + head.bias.double()).detach()
        share = ft_ratio(pretrain, kernel.ft_effective, labels, logits.numpy())
        ratios[name], norms[name] = share.ratio, head.weight.norm().item()
    print("FT ratio", ratios, "head norm", norms)


def head_scale_picture(probe: TextClassifier, texts: list[str], labels: np.ndarray) -> None:
    """What a step of rate 1 changes to first order, with the probe's head times s."""
    length = probe.tokenizer_.model_max_length
    tokens = tokenize(probe.tokenizer_, texts, length)
    head = probe.model_.head
    weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
    phi = probe.features(texts).astype(float)
    pretrain = phi @ phi.T + 1
    rows = []
    for scale in SCALES:
        with torch.no_grad():
            head.weight.copy_(weight * scale)
            head.bias.copy_(bias * scale)
        change = FirstStep(probe.model_, tokens, labels).predicted(tokens)
        logits = phi @ (weight.numpy() * scale).T + bias.numpy() * scale
        delta = np.eye(len(probe.classes_))[labels] - softmax(logits, axis=1)
        by_head = pretrain @ delta
        rows.append(
            {
                "head": np.linalg.norm(by_head, axis=1).mean(),
                "encoder": np.linalg.norm(change.logits - by_head, axis=1).mean(),
                "features": np.linalg.norm(change.features, axis=1).mean(),
                "logits": np.linalg.norm(change.logits, axis=1).mean(),
                "residual": np.linalg.norm(delta),
            }
        )
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    per_residual = {
        name: found[name] / found["residual"] for name in ("head", "encoder", "features")
    }
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.9))
        names = {"head": "logits, by P", "encoder": "logits, by F", "features": "features"}
        colours = {"head": GREY, "encoder": ORANGE, "features": BLUE}
        for name, values in per_residual.items():
            left.loglog(SCALES, values, "o-", ms=3, color=colours[name], label=names[name])
        left.set(xlabel="head scale s", title="change by one step, per unit of error")
        left.legend(frameon=False)
        right.loglog(SCALES, found["features"] / found["logits"], "o-", ms=3, color=BLUE)
        right.set(xlabel="head scale s", title="feature change over logit change")
        for axis in (left, right):
            axis.set_xticks([1 / 16, 1 / 4, 1, 4, 16], ["1/16", "1/4", "1", "4", "16"])
            axis.minorticks_off()
        save(figure, "head-scale")
    slopes = {
        name: np.polyfit(np.log(SCALES), np.log(values), 1)[0]
        for name, values in per_residual.items()
    }
    print("slopes", slopes)
    print("features per logit", dict(zip(SCALES, found["features"] / found["logits"], strict=True)))


TRAININGS = {
    "ft": ("FT", ORANGE),
    "lp-ft": ("LP-FT, head scale 0.3", BLUE),
    "lp-ft-scale-1": ("LP-FT, head scale 1", GREY),
}
"""The runs by folder; the last is made by the command of LP-FT with --head-scale 1."""


def training_picture(runs: Path) -> None:
    """Head norm and feature change epoch by epoch."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.6))
        for folder, (name, colour) in TRAININGS.items():
            lines = (runs / folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [row for row in map(json.loads, lines) if row["event"] == "evaluation"]
            epochs = [row["epoch"] for row in rows]
            for axis, quantity in ((left, "head_norm"), (right, "feature_difference")):
                values = [row[quantity] for row in rows]
                axis.plot(epochs, values, "o-", ms=3, color=colour, label=name)
        left.set(xlabel="epoch", title="head norm", ylim=(0, None))
        right.set(xlabel="epoch", title="feature change", ylim=(0, None))
        right.legend(frameon=False, fontsize=8)
        save(figure, "training")


def save(figure: plt.Figure, name: str) -> None:
    path = FOLDER / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(path)


# --- screenshots

GROUP = "reviews-minilm-mean-stratified"
PARTS = {
    "report-summary": ("#summary", 1200, 2000),
    "report-errors": (f"#{GROUP}-errors", 800, 545),
    "report-probabilities": (f"#{GROUP}-probabilities", 800, 1400),
    "report-data": (f"#{GROUP}-data", 800, 2000),
    "report-results": (f"#{GROUP}-results", 1000, 2000),
}
"""The selector of each part of the page, the width to show it in, and where a long one is cut."""


def screenshots(runs: Path) -> None:
    """Each part alone on a page, as Chromium draws it, cut to what is there."""
    page = (runs / "report.html").read_text(encoding="utf-8")
    page = page.replace('<details class="research"', '<details open class="research"')
    for name, (selector, width, height) in PARTS.items():
        alone = (
            f"<style>body *:not(:has({selector})):not({selector}):not({selector} *)"
            "{display:none!important} main{margin:0!important}</style></head>"
        )
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "page.html").write_text(
                re.sub("</head>", alone, page), encoding="utf-8"
            )
            chromium(Path(folder) / "page.html", Path(folder) / "shot.png", width)
            image = Image.open(Path(folder) / "shot.png").convert("RGB")
        blank = Image.new("RGB", image.size, image.getpixel((0, 0)))
        box = ImageChops.difference(image, blank).getbbox()
        if box is None:
            raise SystemExit(f"error: the page has nothing at {selector}")
        bottom = min(box[3] + 12, box[1] + height)
        cut = image.crop((0, max(box[1] - 12, 0), min(box[2] + 12, image.width), bottom))
        cut.quantize(64).save(FOLDER / f"{name}.png", optimize=True)
        print(FOLDER / f"{name}.png")


def first_screen(demo: Path) -> None:
    """The answer at the top of the demo's page, with its tiles."""
    with tempfile.TemporaryDirectory() as folder:
        chromium(demo / "report.html", Path(folder) / "shot.png", 1200)
        image = Image.open(Path(folder) / "shot.png").convert("RGB")
    cut = image.crop((10, 20, 1190, FIRST_SCREEN))
    cut.quantize(128).save(FOLDER / "page.png", optimize=True)
    print(FOLDER / "page.png")


def terminal(printed: str) -> None:
    """The demo's table in a window, as text of one width."""
    lines = printed.splitlines()
    first = next(row for row, line in enumerate(lines) if line.startswith("method "))
    shown = ["$ lpft demo", "", *lines[first - 1 : lines.index("", first)]]
    letter, line = 8.43, 20
    width, height = 32 + letter * max(map(len, shown)), 52 + line * len(shown)
    dots = "".join(
        f'<circle cx="{18 + 18 * place}" cy="17" r="5.5" fill="{colour}"/>'
        for place, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    text = "".join(
        f'<text x="16" y="{56 + line * row}" xml:space="preserve" '
        f'textLength="{letter * len(words):.1f}">{escape(words)}</text>'
        for row, words in enumerate(shown)
        if words
    )
    (FOLDER / "terminal.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}">'
        f'<rect width="100%" height="100%" rx="8" fill="#1e2030"/>{dots}'
        f'<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" '
        f'fill="#e6e6ef">{text}</g></svg>\n',
        encoding="utf-8",
    )
    print(FOLDER / "terminal.svg")


def chromium(page: Path, picture: Path, width: int) -> None:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("error: no Chromium on the PATH: install it to take screenshots")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    size = (f"--window-size={width},3000", "--force-device-scale-factor=1")
    command = [program, *flags, *size, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main()
