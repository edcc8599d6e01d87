"""Which colour, marker and line each series of a figure has: one for each label."""

from lpft.report.palette import Style, plain_styles, varied_style
from lpft.results.exhibits import Figure, Series


def series_styles(figure: Figure) -> dict[str, Style]:
    """The style of every label of a figure, in the order in which they appear.

    Methods keep their colours; a second label of a method, or a dashed one, is hollow and dashed.
    """
    firsts: dict[str, Series] = {}
    for panel in figure.panels:
        for series in panel.series:
            firsts.setdefault(series.label, series)
    methods = dict.fromkeys(s.method for s in firsts.values() if s.method is not None)
    names = tuple(methods)
    looks: dict[str, Style] = {}
    for method in names:
        own = [s for s in firsts.values() if s.method == method]
        ordered = sorted(own, key=lambda series: series.dashed)
        first = 1 if ordered[0].dashed else 0
        for position, series in enumerate(ordered, start=first):
            looks[series.label] = varied_style(method, position, names)
    others = [label for label, series in firsts.items() if series.method is None]
    looks |= plain_styles(others, beside_methods=bool(names))
    return {label: looks[label] for label in firsts}
