"""The paper's tables and figures that ``lpft reproduce`` has, by name, and its claims.

This is what the list shows, and needs neither torch nor the module that an experiment is made in.
"""

from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from lpft.errors import InputError
from lpft.paper import KERNEL_SAMPLES

ALL = "all"
"""What ``lpft reproduce`` calls every experiment."""

SAME_AS = {"table14": "table3", "table15": "table3"}
"""Tables of the paper that another one's experiment shows as well."""


@dataclass(frozen=True)
class Entry:
    """One table, figure or set of claims of the paper.

    Attributes:
        name: what ``lpft reproduce`` calls it.
        source: where the paper has it ("Table 8").
        tasks: the paper's tasks; ``lpft reproduce --tasks`` takes others.
        methods: the methods that it compares.
        shows: its title.
        module: the module of ``lpft.experiments`` with its recipe.
        kernel_samples: texts of a split at most whose kernel is computed, where
            ``lpft reproduce --kernel-samples`` names no other number.
    """

    name: str
    source: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    shows: str
    module: str
    kernel_samples: int = KERNEL_SAMPLES


_GLUE = ("cb", "rte", "boolq", "wic", "wsc", "cola", "sst2", "mrpc")
_AND_AMAZON = (*_GLUE, "amazon")
_OTHER_KERNELS = ("rte", "boolq", "wic")
_FT = ("ft", "lp-ft")
_LORA = ("lora", "lp-lora")
_BY_START = ("ft", "lora", "lp-ft", "lp-lora")
_EVERY = ("lp", "ft", "lp-ft", "lora", "lp-lora")
_RANDOM_FIRST = ("ft", "lora", "lp", "lp-ft", "lp-lora")

_SCORES = "Test score of each method"
_FEATURES = "Features and head norm of each method"
_TRAINING = "Norms, loss and accuracy along training"
_SCALES = "Feature change against the scale of the head"
_PROJECTIONS = "t-SNE of features with the head's rows"
_KERNELS = "Kernels of the starts of fine-tuning"
_SPECTRA = "Spectra of the kernels at the start of fine-tuning"
_HEAT_MAPS = "Heat maps of the kernels at the start"
_LORA_HEAT_MAPS = f"{_HEAT_MAPS}, F with LoRA"
_CLAIMS = "The paper's claims"
_CALIBRATION = "Calibration error with and without temperature scaling"
_OOD_SCORES = "Score and calibration in and out of distribution"
_OOD_FEATURES = f"{_FEATURES}, in and out of distribution"
_NORMS = "Norm of the head before and after training"

_TEXTS_OF_CLAIMS = 60
"""Texts of a split whose kernel the claims take; the paper's 250 take several times as long, for a
ratio that is a mean over texts."""

_ROWS = (
    Entry("claims", "the text", _AND_AMAZON, _FT + _LORA, _CLAIMS, "claims", _TEXTS_OF_CLAIMS),
    Entry("figure1", "Figure 1", ("rte",), _EVERY, _TRAINING, "figures"),
    Entry("figure2", "Figure 2", ("cb",), _BY_START, _SPECTRA, "kernels"),
    Entry("figure3", "Figure 3", ("amazon",), _FT, f"{_SCALES}, in distribution", "figures"),
    Entry("figure4", "Figure 4", ("cb",), _EVERY, _TRAINING, "figures"),
    Entry("figure5", "Figure 5", ("cb",), _FT, _PROJECTIONS, "figures"),
    Entry("figure6", "Figure 6", ("cb",), _LORA, _PROJECTIONS, "figures"),
    Entry("figure7", "Figure 7", _OTHER_KERNELS, _BY_START, _SPECTRA, "kernels"),
    Entry("figure8", "Figure 8", ("cb", *_OTHER_KERNELS), _FT, _HEAT_MAPS, "kernels"),
    Entry("figure9", "Figure 9", ("cb", *_OTHER_KERNELS), _LORA, _LORA_HEAT_MAPS, "kernels"),
    Entry("figure10", "Figure 10", ("amazon",), _FT, _SCALES, "figures"),
    Entry("figure11", "Figure 11", ("cb", "rte"), _FT + _LORA, _SCALES, "figures"),
    Entry("table1", "Table 1", ("cb", "rte"), _EVERY, _FEATURES, "tables"),
    Entry("table2", "Table 2", ("cb",), _BY_START, _KERNELS, "kernels"),
    Entry("table3", "Tables 3, 14 and 15", _GLUE, _FT + _LORA, _CALIBRATION, "tables"),
    Entry("table8", "Table 8", _GLUE, _EVERY, _SCORES, "tables"),
    Entry("table9", "Table 9", _OTHER_KERNELS, _BY_START, _KERNELS, "kernels"),
    Entry("table10", "Table 10", ("amazon",), _EVERY, _OOD_SCORES, "tables"),
    Entry("table11", "Table 11", ("amazon",), _EVERY, _OOD_FEATURES, "tables"),
    Entry("table12", "Table 12", _AND_AMAZON, _BY_START, "How far features move", "tables"),
    Entry("table13", "Table 13", _AND_AMAZON, _RANDOM_FIRST, _NORMS, "tables"),
    Entry("table16", "Table 16", ("pubmed",), _EVERY, _SCORES, "tables"),
)

EXPERIMENTS = {entry.name: entry for entry in _ROWS}
"""Every experiment by name."""


def list_experiments() -> list[dict[str, Any]]:
    """Name, place in the paper, tasks, methods and title of every experiment, ready for JSON."""
    fields = ("name", "source", "tasks", "methods", "shows")
    return [{name: asdict(entry)[name] for name in fields} for entry in EXPERIMENTS.values()]


def find_experiment(name: str) -> Entry:
    """The experiment of that name.

    Raises:
        InputError: there is no such experiment; the message lists them.
    """
    known = SAME_AS.get(name, name)
    if known not in EXPERIMENTS:
        names = [*EXPERIMENTS, *SAME_AS]
        near = get_close_matches(name.lower(), names, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise InputError(
            f"unknown experiment '{name}'{hint}: expected {ALL} or one of {', '.join(names)}"
        )
    return EXPERIMENTS[known]
