"""Tables and plots of speed from the records of benchmarks: a page of them, or those of a document.

    python benchmarks/speed.py --records DIR --page FILE      # a page with all tables and plots
    python benchmarks/speed.py --document docs/speed.md       # its tables anew, from the records

A document has a table between ``<!-- NAME -->`` and ``<!-- end of NAME -->``, NAME being one of
``BLOCKS``, and below it the machine and commit of its record. Plots are SVG files in a folder that
has the document's name.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lpft.report.drawing import saved, settle
from lpft.report.panels import sheet
from lpft.results.exhibits import Figure, Panel, Series
from lpft.results.groups import method_name

RESULTS = Path(__file__).parent / "results"
MISSING = "–"
Result = Mapping[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def number(value: float | None) -> str:
    """Three significant digits, or all of those before the point."""
    if value is None:
        return MISSING
    if abs(value) >= 100:
        return f"{value:,.0f}"
    rounded = f"{value:#.3g}"
    return rounded if "e" not in rounded else f"{value:.2g}"


def mean_and_sd(score: Mapping[str, float] | None) -> str:
    return MISSING if score is None else f"{score['mean']:.3f} ± {score['sd']:.3f}"


def length_grouping(result: Result) -> str:
    features, steps = result["frozen_features"], result["fine_tuning_steps"]
    header = ("wall seconds", "length-grouped", "padded to 128", "ratio, median over blocks")
    rows = [
        (
            f"frozen features, {features['sentences']:,} sentences",
            number(features["grouped_seconds"]),
            number(features["padded_seconds"]),
            number(features["ratio"]),
        ),
        (
            f"a fine-tuning step of {steps['batch_size']} texts, median",
            number(steps["grouped_median_seconds"]),
            number(steps["padded_median_seconds"]),
            number(steps["ratio"]),
        ),
    ]
    return table(header, rows)


def steps(result: Result) -> str:
    kinds = list(result["median_cpu_seconds"])
    header = [f"a step of {result['batch_size']}"]
    header += [name for kind in kinds for name in (f"{kind}: CPU s", "over ours")]
    rows = []
    for trainer in result["median_cpu_seconds"][kinds[0]]:
        row = [trainer]
        for kind in kinds:
            row.append(number(result["median_cpu_seconds"][kind][trainer]))
            row.append(number(result["cpu_seconds_over_ours"][kind][trainer]))
        rows.append(row)
    return table(header, rows)


def prediction(result: Result) -> str:
    data = {name: value for name, value in result.items() if name in ("trec", "imdb")}
    header = ["rows per CPU second"]
    header += [name for source in data for name in (source, "times encode")]
    rows = []
    for action in next(iter(data.values()))["rows_per_cpu_second"]:
        row = [action]
        for rates in data.values():
            row.append(number(rates["rows_per_cpu_second"][action]))
            row.append(number(rates["times_as_fast_as_encode"].get(action)))
        rows.append(row)
    one_text = table(
        ["CPU ms of a text alone", *data],
        [
            [action, *(number(rates["cpu_ms_of_one_text"][action]) for rates in data.values())]
            for action in next(iter(data.values()))["cpu_ms_of_one_text"]
        ],
    )
    return f"{table(header, rows)}\n\n{one_text}"


def start_up(result: Result) -> str:
    rows = [(name, number(value)) for name, value in result["start_up_cpu_seconds"].items()]
    return table(("a whole process", "CPU s"), rows)


def linear_probe(result: Result) -> str:
    header = ("TREC questions", "rows", "CPU s", "over ours", "test accuracy", "test NLL")
    rows = [
        (
            name,
            number(cell["rows"]),
            number(fit["cpu_seconds"]),
            number(fit["over_ours"]),
            f"{fit['accuracy']:.3f}",
            f"{fit['nll']:.3f}",
        )
        for cell in result["cells"]
        for name, fit in cell["sides"].items()
    ]
    return table(header, rows)


def few_rows(result: Result) -> str:
    header = ("rows and method", "CPU s", "test accuracy", "test NLL", "draws")
    rows = [
        (
            f"{data}: {method}",
            number(scores["cpu_seconds"]),
            f"{scores['accuracy']:.3f}",
            f"{scores['nll']:.3f}",
            str(len(scores["draws"])),
        )
        for data, methods in result.items()
        for method, scores in methods.items()
    ]
    return table(header, rows)


def serving(result: Result) -> str:
    services = result["services"]
    clients = list(next(iter(services.values())))
    rows = [
        (name, *(f"{number(latencies[count]['processor_ms_per_request'])} ms" for count in clients))
        for name, latencies in services.items()
    ]
    header = ["processor time per request", *(f"{count} clients" for count in clients)]
    return table(header, rows).replace(" 1 clients", " 1 client")


def predict_rows(result: Result) -> str:
    rows = [
        (
            f"resumed after SIGKILL at {result['rows_recorded_when_killed']:,} rows"
            if name == "resumed"
            else f"{int(name.partition('_')[0]):,} rows",
            number(job["cpu_seconds"]),
            number(job["seconds"]),
            f"{job['peak_megabytes']:.0f} MB",
        )
        for name, job in result.items()
        if name.endswith("_rows") or name == "resumed"
    ]
    return table(("a job of its own", "CPU s", "wall s", "peak memory"), rows)


def probing_of_many(result: Result) -> str:
    run, head = result["run"], result["head"]
    rows = [
        (
            number(run["rows"]),
            number(run["cpu_seconds"]),
            number(run["wall_seconds"]),
            f"{run['peak_gigabytes']} GB",
            number(head["largest_difference_of_a_probability"]),
        )
    ]
    header = ("rows", "CPU s", "wall s", "peak memory", "largest difference from scikit-learn's")
    return table(header, rows)


def kernels(result: Result) -> str:
    rows = []
    for shape in ("minilm", "roberta"):
        if shape not in result:
            continue
        compared = result[shape]
        ours = compared["ours"]
        rows.append(
            (
                f"{shape}, {ours['tokens_per_sample']} tokens, rank {ours['head_rank']}, "
                f"{ours['samples']} texts",
                *(
                    number(compared[engine]["seconds_per_sample"])
                    for engine in ("ours", "jacrev", "grad_loop")
                ),
                number(compared["times_faster"]),
                f"{ours['peak_memory_gb']} GB",
            )
        )
    header = ("wall s per text", "ours", "jacrev", "loop", "times faster than best", "our memory")
    return table(header, rows)


def reference(result: Result) -> str:
    rows = [
        (
            name.replace("_", " "),
            number(estimate["extrapolated_seconds_per_sample"]),
            number(estimate["times_faster"]),
        )
        for name, estimate in result["reference"].items()
        if isinstance(estimate, Mapping) and "times_faster" in estimate
    ]
    return table(("the paper's algorithm", "wall s per text", "times ours"), rows)


def neural_tangents(result: Result) -> str:
    rows = [
        (
            f"{cell['samples']} texts, {cell['head']}",
            number(cell["processor_seconds"]["ours"]),
            number(cell["processor_seconds"]["neural_tangents"]),
            number(cell["times_faster_by_processor"]),
            number(cell["times_faster"]),
            f"{cell['peak_memory_gb']['ours']:.2f} GB",
            f"{cell['peak_memory_gb']['neural_tangents']:.2f} GB",
            f"{cell['relative_difference']:.1e}",
        )
        for cell in result["cells"]
    ]
    seconds = ("CPU s, ours", "CPU s, theirs", "times", "times by wall")
    header = ("kernel", *seconds, "memory, ours", "memory, theirs", "relative difference")
    return table(header, rows)


def symmetric_product(result: Result) -> str:
    rows = [
        (f"{texts}: {name}", *(number(rates[part]) for part in ("forming", "multiplying", "both")))
        for texts, products in result.items()
        if isinstance(products, Mapping)
        for name, rates in products.items()
    ]
    return table(("GFLOP/s", "forming J", "multiplying", "both"), rows)


def operator(result: Result) -> str:
    rows = [
        (
            f"{number(cell['samples'])} sentences, activations {storage}",
            number(min(cell["product_processor_seconds"])),
            f"{cell['peak_gb']} GB",
        )
        for storage, measured in result.items()
        for cell in measured["products"]
    ]
    rows += [
        (f"exponent of N, activations {storage}", number(measured["exponent_of_n"]), "")
        for storage, measured in result.items()
    ]
    return table(("a product by NTKOperator", "CPU s", "peak memory"), rows)


def report_time(result: Result) -> str:
    rows = [
        (name, number(page["cpu_seconds"]), f"{page['page_kilobytes']:,} kB")
        for name, page in result["pages"].items()
        if isinstance(page, Mapping)
    ]
    return table(("`lpft report` of", "CPU s", "page"), rows)


def fitted(exponent: Mapping[str, Any]) -> str:
    """An exponent with its standard error."""
    error = exponent.get("standard_error")
    return f"{exponent['exponent']:.2f}" + ("" if error is None else f" ± {error:.2f}")


LETTERS = {"samples": "N", "classes": "C", "tokens": "T", "layers": "layers"}


def scaling_kernels(result: Result) -> str:
    rows = []
    for along, letter in LETTERS.items():
        exponents = result[along]["exponents"]
        values = [cell[along] for cell in result[along]["cells"]]
        rows.append(
            (
                f"{letter} from {values[0]} to {values[-1]}",
                fitted(exponents["cpu_seconds"]),
                fitted(exponents["tflop"]),
                f"{exponents['cpu_seconds'].get('target', MISSING)}",
                fitted(exponents["memory_bytes"]),
                f"{exponents['memory_bytes'].get('target', MISSING)}",
            )
        )
    header = ("exponent", "CPU s", "flops by the plan", "at most", "memory less kernel", "at most")
    base = result["base"]
    cells = [
        (
            f"N = {cell['samples']}",
            number(cell["cpu_seconds"]),
            number(cell["seconds"]),
            f"{cell['memory_bytes'] / 1e6:,.0f} MB",
            f"{cell['kernel_bytes'] / 1e6:.2g} MB",
        )
        for cell in result["samples"]["cells"]
    ]
    shape = f"C = {base['classes']}, T = {base['tokens']}, {base['layers']} layers"
    times = table((shape, "CPU s", "wall s", "memory less kernel", "the kernel"), cells)
    return f"{table(header, rows)}\n\n{times}"


JOBS = {"ft": "FT, an epoch", "lora": "LoRA, an epoch", "lp": "LP", "predict": "prediction"}


def scaling_rows(result: Result) -> str:
    parts = result["parts"]
    of_jobs = {name: parts[job] for job, name in JOBS.items() if job in parts}
    counts = [cell["rows"] for cell in next(iter(of_jobs.values()))["cells"]]
    header = ["CPU s", *(f"{count:,} rows" for count in counts)]
    header += ["exponent", "beyond 64 rows", "at most"]
    rows = [
        (
            name,
            *(number(cell["cpu_seconds"]) for cell in measured["cells"]),
            fitted(measured["exponents"]["cpu_seconds"]),
            fitted(measured["exponents"]["more_cpu_seconds"]),
            str(measured["exponents"]["cpu_seconds"]["target"]),
        )
        for name, measured in of_jobs.items()
    ]
    return table(header, rows)


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds)} s" if seconds >= 1 else "< 1 s"


def size_of(count: float) -> str:
    """Bytes in the unit that suits them."""
    for unit, size in (("EB", 1e18), ("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{number(count / size)} {unit}"
    return f"{number(count / 1e3)} kB"


def on_paper(result: Result) -> str:
    tables = []
    for case, of_texts in result["cases"].items():
        large = "7 billion" in case
        on_cpu = result["cpu_gflops"] * 1e9
        rate = result["gpu_tflops"] * 1e12 if large else on_cpu
        where = (
            f"{result['gpu_tflops']:g} TFLOP/s" if large else f"{result['cpu_gflops']:g} GFLOP/s"
        )
        header = [f"{case}, {where}", *(f"{int(texts):,} texts" for texts in of_texts)]
        rows = [
            [
                job,
                *(
                    f"{duration(costs[job]['flops'] / (on_cpu if job == 'LP' else rate))}, "
                    f"{size_of(costs[job]['bytes'])}"
                    for costs in of_texts.values()
                ),
            ]
            for job in next(iter(of_texts.values()))
        ]
        tables.append(table(header, rows))
    return "\n\n".join(tables)


def plans(result: Result) -> str:
    rows = [
        (
            f"{row['texts']:,} texts, {row['classes']} classes, {row['budget_gb']} GB",
            number(row.get("model_tflop")),
            f"{row['gigabytes']} GB" if "gigabytes" in row else "refused",
            str(row.get("tiles", MISSING)),
        )
        for row in result["plans"]
    ]
    return table(("MiniLM's shape, 64 tokens, memory allowed", "TFLOP", "memory", "tiles"), rows)


DATA_SETS = {
    "amazon": "Amazon",
    "cb": "CB",
    "rte": "RTE",
    "sst2": "SST-2",
    "cola": "CoLA",
    "csabstruct": "CSAbstruct",
    "nicta": "NICTA-PIBOSO",
    "trec": "TREC",
    "banking77": "Banking77",
}
"""Data sets by their names in the benchmarks, in the order of the tables."""
OUTSIDE = {
    "ood/yelp": " to Yelp",
    "ood/imdb": " to IMDb",
    "ood/out_of_domain": ", out of domain",
}
"""What follows the name of a data set in the rows of its out-of-distribution splits."""


def tuned_rates(result: Result) -> str:
    """Test scores, by data set and method."""
    rows = []
    for name, part in result["parts"].items():
        for method, measured in part["methods"].items():
            scores, rate = measured["scores"], measured["learning_rate"]
            outside = [scores[split]["accuracy"] for split in scores if split != "test"]
            rows.append(
                [
                    DATA_SETS[name] if method == next(iter(part["methods"])) else "",
                    method_name(method),
                    MISSING if method == "lp" else f"{rate:g}",
                    mean_and_sd(scores["test"]["accuracy"]),
                    "; ".join(map(mean_and_sd, outside)) or MISSING,
                    mean_and_sd(scores["test"]["nll"]),
                    mean_and_sd(scores["test"]["ece"]),
                ]
            )
    header = ("", "method", "rate", "accuracy", "out of distribution", "NLL with T", "ECE with T")
    return table(header, rows)


def tuned_differences(result: Result) -> str:
    """Differences of accuracy in points, with their intervals."""
    first = next(iter(result["parts"].values()))["differences"]["test"]
    rows = []
    for name, part in result["parts"].items():
        for split, differences in part["differences"].items():
            values = [
                f"{100 * each['mean']:+.1f} ({100 * each['interval'][0]:.1f} to "
                f"{100 * each['interval'][1]:.1f})"
                for each in differences.values()
            ]
            rows.append([DATA_SETS[name] + OUTSIDE.get(split, ""), *values])
    pairs = (name.partition(" less ") for name in first)
    header = [f"{method_name(one)} less {method_name(other)}" for one, _, other in pairs]
    return table(["points of accuracy", *header], rows)


def tuned_theory(result: Result) -> str:
    """What the theory speaks of, by data set and method, beside what was gained."""
    rows = []
    for name, part in result["parts"].items():
        probe = part["methods"]["lp"]["scores"]["test"]["accuracy"]["mean"]
        for method, measured in part["methods"].items():
            if method == "lp":
                continue
            rows.append(
                [
                    f"{DATA_SETS[name]}, {method_name(method)}",
                    number(measured["ft_ratio"]),
                    number(measured["head_norm_at_start"]["mean"]),
                    number(measured["feature_change"]["mean"]),
                    f"{100 * (measured['scores']['test']['accuracy']['mean'] - probe):+.1f}",
                ]
            )
    header = ("", "FT ratio", "head norm at the start", "feature change", "points over LP")
    return table(header, rows)


def plot_tuned(result: Result) -> Figure:
    """Feature change against the head's norm, and accuracy gained against the FT ratio."""
    sets = [part["methods"] for part in result["parts"].values()]
    methods = [method for method in sets[0] if method != "lp"]

    def accuracy(measured: Result) -> float:
        return float(measured["scores"]["test"]["accuracy"]["mean"])

    def series(
        x: Callable[[Result], float], y: Callable[[Result, Result], float]
    ) -> tuple[Series, ...]:
        return tuple(
            Series(
                method_name(method),
                tuple(x(measured[method]) for measured in sets),
                tuple(y(measured[method], measured["lp"]) for measured in sets),
                method=method,
            )
            for method in methods
        )

    change = series(
        lambda tuned: tuned["head_norm_at_start"]["mean"],
        lambda tuned, _: tuned["feature_change"]["mean"],
    )
    gain = series(
        lambda tuned: tuned["ft_ratio"],
        lambda tuned, probe: 100 * (accuracy(tuned) - accuracy(probe)),
    )
    norm = Panel("", "norm of the head at the start", "feature change", change, "log", "log")
    ratio = Panel("", "FT ratio", "points of accuracy over LP", gain)
    return Figure("tuned-rates", "Theory beside results", "scatter", (norm, ratio))


def contrastive(result: Result) -> str:
    """Accuracy before and after contrastive tuning, and SetFit's on the draws that it has."""
    rows = []
    measurements = [
        (data, size, measured)
        for data, sizes in result["parts"].items()
        for size, measured in sizes.items()
    ]
    for data, size, measured in measurements:
        draws = measured["draws"]
        shared = [draw for draw in draws if draw.get("setfit")]
        setfit = [draw["setfit"] for draw in shared]
        rows.append(
            [
                f"{DATA_SETS[data]}, {size.partition('-')[0]}",
                mean_and_sd(measured["lp"]),
                mean_and_sd(measured["tuned"]),
                number(fmean(draw["cpu_seconds"] for draw in draws)),
                str(len(draws)),
                number(fmean(cell["test_accuracy"] for cell in setfit) if setfit else None),
                number(fmean(draw["tuned"] for draw in shared) if shared else None),
                number(fmean(cell["cpu_seconds"] for cell in setfit) if setfit else None),
                str(len(shared)),
            ]
        )
    header = ["rows per class", "LP", "after tuning", "CPU s", "draws"]
    header += ["SetFit", "ours on its draws", "SetFit's CPU s", "its draws"]
    return table(header, rows)


def _series(
    label: str, cells: Sequence[Mapping[str, Any]], along: str, what: str, unit: float = 1
) -> Series:
    xs, ys = (tuple(cell[name] for cell in cells) for name in (along, what))
    return Series(label, xs, tuple(value / unit for value in ys))


def plot_kernels(result: Result) -> Figure:
    panels = []
    for what, title, unit in (("cpu_seconds", "CPU seconds", 1), ("memory_bytes", "MB", 1e6)):
        for along, letter in LETTERS.items():
            if what == "memory_bytes" and along != "samples":
                continue
            growth = result[along]
            name = f"exponent {fitted(growth['exponents'][what])}"
            panels.append(
                Panel(
                    f"{letter}: {name}" if unit == 1 else f"memory: {name}",
                    letter,
                    title,
                    (_series("kernel", growth["cells"], along, what, unit),),
                    "log",
                    "log",
                )
            )
    return Figure("kernels", "Time and memory of kernels", "lines", tuple(panels))


def plot_rows(result: Result) -> Figure:
    drawn = tuple(
        _series(JOBS[job], part["cells"], "rows", "cpu_seconds")
        for job, part in result["parts"].items()
    )
    panel = Panel("CPU seconds", "rows", "CPU seconds", drawn, "log", "log")
    return Figure("rows", "Time of training and prediction", "lines", (panel,))


@dataclass(frozen=True)
class Block:
    """A table of one record, and a plot where there is one."""

    title: str
    record: str
    render: Callable[[Result], str]
    plot: Callable[[Result], Figure] | None = None


BLOCKS = {
    "linear_probe": Block("Features and linear probing", "linear_probe", linear_probe),
    "steps": Block("Steps of fine-tuning", "fine_tuning_steps", steps),
    "length_grouping": Block("Length-grouped batches", "length_grouping", length_grouping),
    "few_rows": Block("Few rows, beside SetFit", "alternatives", few_rows),
    "prediction": Block("Prediction", "prediction", prediction),
    "start_up": Block("Start-up", "prediction", start_up),
    "predict_rows": Block("Predicting many rows", "predict_rows", predict_rows),
    "large_data": Block("Probing many rows", "large_data_10000", probing_of_many),
    "serving": Block("Serving", "serving", serving),
    "scaling_rows": Block("Growth with rows", "scaling_rows", scaling_rows, plot_rows),
    "ntk_full_rank": Block("The empirical NTK, full rank", "ntk_full_rank", kernels),
    "reference": Block("The paper's algorithm", "ntk_full_rank", reference),
    "ntk_binary_lp": Block("The empirical NTK, binary LP head", "ntk_binary_lp", kernels),
    "neural_tangents": Block("Beside neural-tangents", "ntk_neural_tangents", neural_tangents),
    "scaling_kernels": Block("Growth of kernels", "scaling_kernels", scaling_kernels, plot_kernels),
    "operator": Block("Products by NTKOperator", "ntk_operator_time", operator),
    "symmetric_product": Block("The symmetric product", "symmetric_product", symmetric_product),
    "on_paper": Block("On paper", "on_paper", on_paper),
    "plans": Block("Plans of kernels", "on_paper", plans),
    "report_time": Block("Reports", "report_time", report_time),
    "tuned_rates": Block("Methods at tuned rates", "tuned_rates", tuned_rates),
    "tuned_differences": Block("Differences at tuned rates", "tuned_rates", tuned_differences),
    "contrastive": Block("Contrastive tuning", "contrastive", contrastive),
    "tuned_theory": Block("Theory beside results", "tuned_rates", tuned_theory, plot_tuned),
}  # fmt: skip

JOINED = {
    "scaling_rows": ("scaling_", tuple(JOBS)),
    "tuned_rates": ("tuned_rates_", tuple(DATA_SETS)),
    "contrastive": ("contrastive_", tuple(DATA_SETS)),
}
"""Tables made of several records: what begins the records' names, and what ends them."""


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder; those of one table, such as one per data set, are also joined."""
    records = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    for name, (prefix, parts) in JOINED.items():
        joined = {part: records[prefix + part] for part in parts if prefix + part in records}
        if joined:
            results = {part: record["result"] for part, record in joined.items()}
            quick = any(result.get("quick") for result in results.values())
            result = {"quick": quick, "parts": results}
            records[name] = {"joined": [*joined.values()], "result": result}
    return records


def rendered(name: str, records: Mapping[str, Any], folder: Path) -> str | None:
    """The table of a block, its plot written into ``folder``; None without its record."""
    block = BLOCKS[name]
    if block.record not in records:
        return None
    record = records[block.record]
    if name == "reference" and "reference" not in record["result"]:
        return None
    text = block.render(record["result"])
    if block.plot is not None:
        canvas = sheet(block.plot(record["result"]))
        assert canvas is not None
        settle(canvas)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.svg").write_bytes(saved(canvas, "svg", name))
        text += f"\n\n![{block.title}]({folder.name}/{name}.svg)"
    return text


def of_record(record: Mapping[str, Any]) -> str:
    """Where and on what a record was made, or the records that are joined in it."""
    sources = dict.fromkeys(map(_source, record.get("joined", [record])))
    quick = " with fewer and smaller cells (`--quick`)" if record["result"].get("quick") else ""
    return "; ".join(sources) + quick


def _source(record: Mapping[str, Any]) -> str:
    load = record["result"].get("load_average")
    commit = record["commit"] or "?"
    return (
        f"{record['processor']}, {record['threads']} thread{'s' * (record['threads'] > 1)}, "
        f"torch.matmul at {record['matmul_gflops']:g} GFLOP/s, commit `{commit[:8]}`"
        + (" with uncommitted changes" if commit.endswith("-dirty") else "")
        + (f", load {load[0]:g}" if load else "")
    )


def write_page(records_folder: Path, page: Path, summary: str = "") -> None:
    """A page of all tables whose records are there."""
    records = read_records(records_folder)
    parts = ["# Speed", summary] if summary else ["# Speed"]
    for name, block in BLOCKS.items():
        text = rendered(name, records, page.with_suffix(""))
        if text is not None:
            parts += [f"## {block.title}", text, f"*{of_record(records[block.record])}*"]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def renewed(document: Path, records_folder: Path, plots: Path) -> str:
    """The document with each of its tables made anew from the records; plots go to a folder."""
    records = read_records(records_folder)

    def replaced(found: re.Match[str]) -> str:
        text = rendered(found[1], records, plots)
        if text is None:
            raise SystemExit(f"{document}: no record of {found[1]} in {records_folder}")
        made = of_record(records[BLOCKS[found[1]].record])
        return f"<!-- {found[1]} -->\n\n{text}\n\n*{made}*\n\n<!-- end of {found[1]} -->"

    pattern = r"<!-- (\w+) -->\n.*?<!-- end of \1 -->"
    return re.sub(pattern, replaced, document.read_text(encoding="utf-8"), flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=RESULTS, help="folder of records")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--page", type=Path, help="write a page of all records to this file")
    where.add_argument("--document", type=Path, help="make the tables of this file anew")
    options = parser.parse_args()
    if options.page is not None:
        write_page(options.records, options.page)
    else:
        text = renewed(options.document, options.records, options.document.with_suffix(""))
        options.document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
