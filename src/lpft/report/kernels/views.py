"""What the page's template shows of one ``kernels.json``, computed before it is rendered."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from lpft.report.drawing import shortened, swatch
from lpft.report.facts import Facts, Sections, facts
from lpft.report.grid import Table
from lpft.report.kernels import dynamics_tables, tables
from lpft.report.kernels.dynamics_figure import dynamics_figure, dynamics_styles
from lpft.report.kernels.heat_maps import HeatMap, heat_map_panel, heat_map_sheet, heat_maps
from lpft.report.kernels.parts import parts_panel, parts_sheet
from lpft.report.kernels.reading import (
    read_certificate,
    read_regression,
    read_statistics,
    what_was_computed,
    why_protocols_differ,
)
from lpft.report.kernels.spectra import (
    drawn_kernels,
    legend_styles,
    spectrum_panel,
    spectrum_sheet,
)
from lpft.report.numbers import seconds, slug
from lpft.report.outputs import relative_link
from lpft.report.palette import Style
from lpft.report.svg import inline_svg
from lpft.report.views import Legend, Reading
from lpft.results.kernels import KERNEL_NAMES, KernelRecord, kernel_name
from lpft.results.schema import Values

_LONGEST_FACT = 160  # letters: kernels.json has all of them


@dataclass(frozen=True)
class KernelView:
    """One ``kernels.json`` with its sentences, tables and drawings."""

    kernels: KernelRecord
    slug: str
    title: str
    href: str
    what: str
    readings: tuple[Reading, ...]
    statistics: Table
    regression: Table | None
    protocols: str
    alignment: Table | None
    shares: Table | None
    certificate: Table
    spectra: tuple[Markup, ...]
    spectra_legend: Legend
    heat_maps: tuple[tuple[str, tuple[Markup, ...]], ...]
    class_counts: tuple[tuple[str, int], ...]
    pooled: int
    parts: tuple[Markup, ...]
    dynamics: Markup | None
    dynamics_legend: Legend
    dynamics_tables: tuple[Table, ...]
    made: Sections

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, for files."""
        found = (
            *(self.statistics, self.regression, self.alignment, self.shares),
            *(*self.dynamics_tables, self.certificate),
        )
        return tuple(table for table in found if table is not None)

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """Anchors and names of the parts that are there."""
        parts = (
            ("statistics", "Statistics", True),
            ("spectra", "Spectra", bool(self.spectra)),
            ("heat-maps", "Heat maps", bool(self.heat_maps)),
            ("regression", "Kernel regression", self.regression is not None),
            ("alignment", "Alignment", self.alignment is not None),
            ("parts", "What F is made of", self.shares is not None),
            ("dynamics", "Training beside the kernel", self.dynamics is not None),
            ("made", "How they were made", True),
        )
        return tuple((f"{self.slug}-{name}", title) for name, title, there in parts if there)


def view_kernels(
    kernels: Sequence[KernelRecord], page_folder: Path, taken: set[str]
) -> tuple[KernelView, ...]:
    """Everything the page shows of each; equal titles are told apart by their folders.

    ``taken`` holds the slugs that others have, and gets these.
    """
    times = Counter(found.title for found in kernels)
    views = []
    for found in kernels:
        title = found.title if times[found.title] == 1 else f"{found.title} · {found.name}"
        views.append(_view(found, title, slug(f"kernels {title}", taken), page_folder))
    return tuple(views)


def kernel_figures(view: KernelView) -> Iterator[tuple[str, Figure]]:
    """The figures of one ``kernels.json`` for files, by name."""
    found = {
        "spectra": spectrum_sheet(view.kernels),
        "heat-maps": heat_map_sheet(heat_maps(view.kernels)),
        "shares": parts_sheet(view.kernels),
        "dynamics": dynamics_figure(view.kernels, with_legend=True),
    }
    for name, figure in found.items():
        if figure is not None:
            yield f"{view.slug}-{name}", figure


def _view(kernels: KernelRecord, title: str, anchor: str, page_folder: Path) -> KernelView:
    regression = tables.regression(kernels)
    readings = (
        Reading("Kernels", f"{anchor}-statistics", (tuple(read_statistics(kernels)),)),
        Reading("Kernel regression", f"{anchor}-regression", (tuple(read_regression(kernels)),)),
        Reading("Certificate", f"{anchor}-made", (tuple(read_certificate(kernels)),)),
    )
    maps = heat_maps(kernels)
    dynamics = (dynamics_tables.first_order(kernels), dynamics_tables.linearized(kernels))
    return KernelView(
        kernels=kernels,
        slug=anchor,
        title=title,
        href=relative_link(kernels.folder, page_folder),
        what=what_was_computed(kernels),
        readings=tuple(reading for reading in readings if any(reading.paragraphs)),
        statistics=tables.statistics(kernels),
        regression=regression,
        protocols=why_protocols_differ(kernels),
        alignment=tables.alignment(kernels),
        shares=tables.shares(kernels),
        certificate=tables.certificate(kernels),
        spectra=_spectra(kernels, anchor),
        spectra_legend=_legend(legend_styles(kernels), f"{anchor}-key"),
        heat_maps=_heat_maps(maps, anchor),
        class_counts=_class_counts(maps),
        pooled=maps[0].pooled if maps else 1,
        parts=_parts(kernels, anchor),
        dynamics=_dynamics(kernels, anchor),
        dynamics_legend=_legend(dynamics_styles(kernels), f"{anchor}-dynamics-key"),
        dynamics_tables=tuple(table for table in dynamics if table is not None),
        made=_made(kernels),
    )


def _spectra(kernels: KernelRecord, anchor: str) -> tuple[Markup, ...]:
    return tuple(
        inline_svg(
            spectrum_panel(kernels, name),
            f"{anchor}-spectrum-{place}",
            f"Spectra of {kernel_name(name)}",
            "Singular values over the largest, on a logarithmic scale; the ranks are in the table "
            "of statistics.",
        )
        for place, name in enumerate(drawn_kernels(kernels))
    )


def _legend(styles: Mapping[str, Style], name: str) -> Legend:
    return tuple(
        (label, inline_svg(swatch(style), f"{name}-{place}"))
        for place, (label, style) in enumerate(styles.items())
    )


def _dynamics(kernels: KernelRecord, anchor: str) -> Markup | None:
    figure = dynamics_figure(kernels)
    if figure is None:
        return None
    return inline_svg(
        figure,
        f"{anchor}-dynamics-lines",
        "Training beside what the kernel predicts",
        "Left the relative error of the first-order change of logits over the rate of one step, "
        "right the training loss of the real and of the linear model over steps; the values are "
        "in the tables.",
    )


def _heat_maps(maps: Sequence[HeatMap], anchor: str) -> tuple[tuple[str, tuple[Markup, ...]], ...]:
    """The heat maps of P, of F and of P + F, each with the name of their kernel."""
    drawn = [(found.kernel, _drawn_map(found, f"{anchor}-map-{i}")) for i, found in enumerate(maps)]
    return tuple(
        (kernel_name(name), tuple(image for kernel, image in drawn if kernel == name))
        for name in KERNEL_NAMES
        if any(kernel == name for kernel, _ in drawn)
    )


def _drawn_map(heat_map: HeatMap, name: str) -> Markup:
    return inline_svg(
        heat_map_panel(heat_map),
        name,
        f"Heat map of {heat_map.title}",
        "Trace norm of the block of each pair of training texts, sorted by class: "
        f"{', '.join(heat_map.classes)}.",
    )


def _class_counts(maps: Sequence[HeatMap]) -> tuple[tuple[str, int], ...]:
    if not maps:
        return ()
    ends = zip(maps[0].boundaries[:-1], maps[0].boundaries[1:], strict=True)
    counts = (end - start for start, end in ends)
    return tuple(zip(maps[0].classes, counts, strict=True))


def _parts(kernels: KernelRecord, anchor: str) -> tuple[Markup, ...]:
    drawn = []
    for place, method in enumerate(kernels.methods):
        figure = parts_panel(kernels, method)
        if figure is not None:
            drawn.append(
                inline_svg(
                    figure,
                    f"{anchor}-parts-{place}",
                    f"What F of {method.name} is made of",
                    "Shares of the trace of F by kind of parameter and by layer; the values are "
                    "in the table.",
                )
            )
    return tuple(drawn)


def _made(kernels: KernelRecord) -> Sections:
    """Facts under their headings: configuration, plan, environment and time."""
    times = tuple(
        (name.removesuffix("_seconds").replace("_", " "), seconds(value))
        for name, value in kernels.timings.items()
    )
    configuration = {key: v for key, v in kernels.config.items() if key != "output_dir"}
    found = (
        ("Configuration", _short(configuration)),
        *_plans(kernels.plan),
        ("Environment", _short(kernels.environment)),
        ("Time", times),
    )
    return tuple((heading, lines) for heading, lines in found if lines)


def _plans(plan: Values) -> list[tuple[str, Facts]]:
    """The plan of each pass over the texts; of a plan without passes its own facts."""
    listed = plan.get("passes")
    passes = (
        [part for part in listed if isinstance(part, Mapping)] if isinstance(listed, list) else []
    )
    if not passes:
        return [("Plan", _short(plan))]
    return [
        ("Plan" if len(passes) == 1 else f"Plan of pass {place}", _short(part))
        for place, part in enumerate(passes, start=1)
    ]


def _short(record: Mapping[str, Any]) -> Facts:
    return tuple((name, shortened(value, _LONGEST_FACT)) for name, value in facts(record))
