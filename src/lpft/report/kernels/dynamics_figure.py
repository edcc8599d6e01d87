"""Training as the kernel predicts it, drawn: error over the rate, and losses over steps."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpft.report.drawing import dress, legend, legend_height, line_of, new_figure
from lpft.report.palette import Style, method_styles
from lpft.results.kernels import KernelRecord

PANEL = (3.4, 2.6)  # inches


def dynamics_figure(kernels: KernelRecord, *, with_legend: bool = False) -> Figure | None:
    """Left the error of one step's first order, right the loss of both trainings; None without."""
    looks = dynamics_styles(kernels)
    if not looks:
        return None
    width, height = PANEL
    top = legend_height(looks, 2 * width) if with_legend else 0.0
    figure = new_figure(2 * width, height + top)
    share = height / (height + top)
    places = [(side / 2 + 0.08, 0.18 * share, 0.4, 0.68 * share) for side in (0, 1)]
    _draw_errors(figure.add_axes(places[0]), kernels, looks)
    _draw_losses(figure.add_axes(places[1]), kernels, looks)
    if with_legend:
        legend(figure, looks, 1 - share)
    return figure


def dynamics_styles(kernels: KernelRecord) -> dict[str, Style]:
    """Names of the methods that are drawn, with their styles."""
    looks = method_styles([method.method for method in kernels.methods])
    return {m.name: looks[m.method] for m in kernels.methods if m.dynamics is not None}


def _draw_errors(axes: Axes, kernels: KernelRecord, looks: dict[str, Style]) -> None:
    for method in kernels.methods:
        steps = () if method.dynamics is None else method.dynamics.first_order
        known = [(s.rate, s.logits) for s in steps if s.logits is not None and s.logits > 0]
        if known:
            axes.plot(*zip(*known, strict=True), **line_of(looks[method.name], linewidth=1.3))
            axes.set_xscale("log")
            axes.set_yscale("log")
    dress(axes, title="Error of the first order", x="rate", y="relative, of logits")


def _draw_losses(axes: Axes, kernels: KernelRecord, looks: dict[str, Style]) -> None:
    for method in kernels.methods:
        if method.dynamics is None or "train" not in method.dynamics.trajectories:
            continue
        found, style = method.dynamics.trajectories["train"], looks[method.name]
        lines = ((found.real, 1.0, "-"), (found.linearized, 0.55, ":"))
        for values, opacity, dashes in lines:
            known = [(s, v) for s, v in zip(method.dynamics.steps, values, strict=True) if v]
            if known:
                look = line_of(style, linewidth=1.3, alpha=opacity) | {"linestyle": dashes}
                axes.plot(*zip(*known, strict=True), **look)
    dress(axes, title="Training loss, dotted: linear model", x="steps", y="NLL (nats)")
