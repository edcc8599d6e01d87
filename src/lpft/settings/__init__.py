"""Every setting of runs, kernels and experiments, once: name, type, default, range, help, effect.

Importing this loads neither torch nor transformers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, model_validator

from lpft.errors import InputError, named
from lpft.paper import KERNEL_SAMPLES, MODEL, SEEDS
from lpft.settings.fields import Decides, Need, Setting, Settings, setting

MINILM = "minilm"
"""The name of the model that comes with the ``demo`` extra."""

Pooling = Literal["first", "last", "mean"]
Precision = Literal["float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
ClassWeight = Literal["balanced"]
SplitProtocol = Literal["paper", "stratified"]
KernelKind = Literal["sgd", "signgd", "asymmetric"]
LinearMethod = Literal["auto", "materialize", "token_gram", "sandwich"]
Products = Literal["exact", "tf32", "bfloat16"]
Granularity = Literal["layer", "kind"]
Solver = Literal["paper", "klr", "krr", "logistic", "svc", "svr", "lstsq", "asymmetric"]
ExportFormat = Literal["transformers", "onnx"]


@dataclass(frozen=True)
class Method:
    """One way to train a classifier.

    ``trained`` is ``head`` (nothing but linear probing), ``all``, or the name of an adapter in
    :data:`lpft.model.adapters.ADAPTERS`, whose factors train together with the head.
    """

    name: str
    head_start: Literal["random", "lp"]
    trained: str
    summary: str

    @property
    def fine_tunes(self) -> bool:
        return self.trained != "head"

    @property
    def adapter(self) -> str | None:
        return None if self.trained in ("head", "all") else self.trained

    def takes(self, setting: Setting) -> bool:
        """Whether a setting has an effect."""
        lacking: set[Need] = set()
        if not self.fine_tunes:
            lacking.add("fine-tuning")
        if self.adapter is None:
            lacking.add("adapter")
        return setting.needs not in lacking


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("lp", "lp", "head", "linear probing: logistic regression on frozen features"),
        Method("ft", "random", "all", "fine-tuning of everything from a random head"),
        Method("lp-ft", "lp", "all", "linear probing, then fine-tuning of everything"),
        Method("lora", "random", "lora", "low-rank factors and a random head"),
        Method("lp-lora", "lp", "lora", "linear probing, then low-rank factors and the head"),
        Method("dora", "random", "dora", "weight-decomposed low-rank factors and a random head"),
        Method("lp-dora", "lp", "dora", "linear probing, then weight-decomposed factors"),
    )
}


def get_method(name: str) -> Method:
    """The row of ``name``.

    Raises:
        InputError: there is no such method.
    """
    if name not in METHODS:
        raise InputError(f"unknown method '{name}': expected one of {', '.join(METHODS)}")
    return METHODS[name]


def with_lp_head(name: str) -> str | None:
    """The method that trains what ``name`` does from an LP head; None where it does so itself.

    None too where there is no such method, or no method ``name``.
    """
    asked = METHODS.get(name)
    if asked is None or asked.head_start == "lp":
        return None
    return next(
        (m.name for m in METHODS.values() if m.head_start == "lp" and m.trained == asked.trained),
        None,
    )


_BOTH = Decides.RUN | Decides.KERNEL
_OF_FILES = {"needs": "files", "commands": ("train", "check", "ntk")}
_FILE = {**_OF_FILES, "fingerprinted": _BOTH}
_TUNING = {"needs": "fine-tuning", "decides": Decides.RUN, "commands": ("train", "reproduce")}


def _absolute(value: Any) -> Path:
    if not isinstance(value, str | PathLike):
        raise ValueError("a number is no path")
    return Path(value).expanduser().resolve()


File = Annotated[Path, BeforeValidator(_absolute)]


class DataSettings(Settings):
    """Where the texts come from: a task by name, or files of the user's own."""

    heading = "data"
    commands = ("train", "check", "ntk", "reproduce")
    decides = _BOTH

    task: str | None = setting(None, "a task of lpft tasks", commands=("train", "check", "ntk"))
    data_dir: File | None = setting(
        None,
        "folder of official release files: that of all benchmarks, of one, or of the task "
        "(default: the Hugging Face Hub)",
        decides=Decides.NOTHING,
        needs="task",
    )
    template: int = setting(0, "which of the task's input templates to use", needs="task")
    train_file: File | None = setting(
        None, "labelled texts: CSV, TSV, JSON Lines or Parquet", **_FILE
    )
    validation_file: File | None = setting(
        None, "as --train-file (default: 10%% of each class of the training file)", **_FILE
    )
    test_file: File | None = setting(None, "as --train-file (default: no test split)", **_FILE)
    ood: dict[str, File] = setting(
        {},
        "a labelled file of another distribution, under a name; may be repeated",
        decides=Decides.RUN,
        fingerprinted=Decides.RUN,
        needs="files",
        form="NAME=FILE",
        commands=("train", "check"),
    )
    text_columns: tuple[str, ...] | None = setting(
        None,
        "one column, or two with a comma for pairs (default: the only text column)",
        **_OF_FILES,
    )
    label_column: str = setting("label", "column of the class names", **_OF_FILES)
    column_names: tuple[str, ...] | None = setting(
        None,
        "names of all columns, with commas, of CSV and TSV files whose first line has none",
        **_FILE,
    )
    data_name: str | None = setting(
        None,
        "what data from files is called in records and reports (default: by --train-file)",
        decides=Decides.NOTHING,
        **_OF_FILES,
    )
    split_protocol: SplitProtocol | None = setting(
        None,
        "paper: the last tenth of the training rows is validation; stratified: a tenth of each "
        "class (default: paper for tasks, stratified for files)",
    )
    max_train_samples: int | None = setting(
        None,
        "train on this many rows at most, drawn by class with a fixed seed (default: all)",
        ge=2,
    )
    max_validation_samples: int | None = setting(
        None,
        "choose the epoch and fit the temperature on this many rows at most, drawn alike "
        "(default: all)",
        ge=2,
    )

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> Self:
        needs: Need = "task" if self.task is None else "files"
        useless = [
            name
            for name, item in self.fields().items()
            if item.needs == needs and getattr(self, name) != item.default
        ]
        if self.task is not None and useless:
            raise InputError(
                f"{named('task')} {self.task} brings its own data: leave out "
                f"{', '.join(map(named, useless))}, or the task"
            )
        if self.task is None and self.train_file is None:
            raise InputError(
                f"no data is named: give {named('task')} NAME (see lpft tasks) or "
                f"{named('train_file')} FILE"
            )
        if useless:
            raise InputError(
                f"{named('data_dir')} and {named('template')} belong to {named('task')}: leave "
                "them out"
            )
        if self.data_name is not None and not self.data_name.strip():
            raise InputError(f"{named('data_name')} is empty: expected a name, or leave it out")
        return self


class TrainingSettings(Settings):
    """How a model is made and trained; None means the default that :func:`resolve` fills in."""

    heading = "model and training"
    commands = ("train", "ntk", "reproduce")
    decides = _BOTH

    model: str = setting(
        MINILM,
        f"Hub id, model folder, or '{MINILM}' for the packaged one",
        fingerprinted=_BOTH,
        commands=("train", "ntk"),
    )
    revision: str | None = setting(
        None, "branch, tag or commit of a Hub model (default: its main branch)", fingerprinted=_BOTH
    )
    pooling: Pooling | None = setting(
        None,
        "token or average that is the feature (default: by model)",
        fingerprinted=Decides.KERNEL,
        filled_by_model=True,
    )
    head_bias: bool = setting(True, "give the linear head a bias")
    max_length: int = setting(128, "tokens after which a text is cut", gt=0)
    method: str = setting(
        "lp-ft",
        "see lpft methods",
        choices=tuple(METHODS),
        decides=Decides.RUN,
        commands=("train",),
    )
    seed: int = setting(
        0,
        "of the random head, the adapter, the dropout and the order of batches",
        ge=0,
        le=2**32 - 1,
        same_time=True,
        commands=("train", "ntk"),
    )
    epochs: float | None = setting(
        None, "passes over the training rows", gt=0, filled=10.0, **_TUNING
    )
    batch_size: int | None = setting(
        None, "rows per step (default: by task and method)", gt=0, filled=16, **_TUNING
    )
    # FT and LP-FT share one default, and so do LoRA and LP-LoRA, so that a difference between
    # them is a difference of their heads.
    learning_rate: float | None = setting(
        None,
        "AdamW's at the start, decaying linearly to 0 (default: by task and method)",
        gt=0,
        filled=2e-5,
        filled_for_adapters=5e-4,
        same_time=True,
        **_TUNING,
    )
    weight_decay: float | None = setting(
        None, "AdamW's decoupled decay", ge=0, filled=0.0, same_time=True, **_TUNING
    )
    head_scale: float | None = setting(
        None,
        "multiplies the head's weight just before fine-tuning",
        ge=0,
        needs="fine-tuning",
        filled=1.0,
        same_time=True,
        commands=("train", "ntk"),
    )
    lora_rank: int | None = setting(
        None, "rank r of the adapter's factors", gt=0, needs="adapter", filled=8
    )
    lora_alpha: float | None = setting(
        None, "the factors are scaled by alpha / r", gt=0, needs="adapter", filled=8.0
    )
    class_weight: ClassWeight | None = setting(
        None, "weigh classes by inverse frequency, in probing and fine-tuning alike (default: not)"
    )
    device: Device = setting("auto", "where to compute", decides=Decides.NOTHING)
    precision: Precision = setting(
        "float32",
        "of the products in fine-tuning; evaluation and prediction are in float32",
        **_TUNING,
    )
    report_to: str = setting(
        "none",
        "trackers of Trainer: none, tensorboard, wandb, mlflow, ...",
        decides=Decides.NOTHING,
        needs="fine-tuning",
        commands=("train",),
    )

    @model_validator(mode="after")
    def _known_method(self) -> Self:
        get_method(self.method)
        return self


class OutputSettings(Settings):
    """Which large files a run keeps in its folder beside its numbers."""

    heading = "what is kept"
    commands = ("train",)
    decides = Decides.NOTHING

    save_model: bool = setting(True, "keep the trained weights in the run's folder")
    save_features: bool = setting(
        False, "keep every text's features before and after training, and the trained head"
    )


def resolve(
    settings: TrainingSettings, published: Mapping[str, float] | None = None
) -> TrainingSettings:
    """Fill in every None from ``published`` (a task's hyperparameters) or else the defaults.

    Raises:
        InputError: a setting has no effect with the chosen method.
    """
    method = get_method(settings.method)
    filled = {}
    for name, item in TrainingSettings.fields().items():
        if not method.takes(item):
            if getattr(settings, name) != item.default:
                raise InputError(
                    f"{named(name)} has no effect with {named('method')} {method.name} "
                    f"({method.summary}): leave it out or choose another method"
                )
        elif getattr(settings, name) is None:
            adapted = method.adapter is not None and item.filled_for_adapters is not None
            filled[name] = item.filled_for_adapters if adapted else item.filled
    if published is not None:
        filled |= {name: value for name, value in published.items() if name in filled}
    return settings.model_copy(update=filled)


def without_effect(method: str) -> tuple[str, ...]:
    """The settings that a method does not take: of fine-tuning, of an adapter, or of both.

    Raises:
        InputError: there is no such method.
    """
    chosen = get_method(method)
    fields = TrainingSettings.fields().values()
    return tuple(item.name for item in fields if not chosen.takes(item))


def _or_none(value: Any) -> Any:
    """No value at all, of a setting that takes several, is written ``none``."""
    return () if value in (("none",), ["none"]) else value


class KernelSettings(Settings):
    """Which kernels are computed, how, and what is predicted from them."""

    heading = "kernels"
    commands = ("ntk",)
    decides = Decides.KERNEL

    methods: tuple[str, ...] = setting(
        ("ft", "lora", "lp-ft", "lp-lora"),
        "methods of lpft methods, with commas, whose kernels at the start are computed",
    )
    max_samples: int = setting(
        250, "texts of a split at most, drawn with a fixed seed, each class in proportion", ge=2
    )
    kernel: KernelKind = setting(
        "sgd", "sgd: the NTK; signgd and asymmetric: with signs of gradients on both sides or one"
    )
    solver: Annotated[tuple[Solver, ...], BeforeValidator(_or_none)] = setting(
        ("paper", "klr"),
        f"of kernel regression, with commas, of {', '.join(get_args(Solver))}; or none",
        decides=Decides.STATISTICS,
    )
    granularity: Annotated[tuple[Granularity, ...], BeforeValidator(_or_none)] = setting(
        ("layer", "kind"), "parts of F that are kept, with commas: layer, kind; or none"
    )
    linear_method: LinearMethod = setting(
        "auto",
        "how linear weights are contracted; auto takes the cheapest way for each",
        decides=Decides.ROUNDING,
    )
    products: Products = setting(
        "exact",
        "precision of gradients' products; tf32 and bfloat16 are faster and report their error",
    )
    dtype: Literal["float32", "float64"] = setting(
        "float32", "number format of passes and products; sums are float64"
    )
    with_start: bool = setting(
        False, "of a trained run: also the kernel at the start of its training, and their alignment"
    )
    dynamics: int = setting(
        0,
        "training texts on which one step and some tens of steps of gradient descent are made, "
        "beside what the first-order change and the kernel's linear model predict; 0 for none",
        decides=Decides.STATISTICS,
        ge=0,
    )
    memory: str | None = setting(
        None,
        "that the process may take in all, such as 6GB (default: half of what is free)",
        decides=Decides.NOTHING,
    )

    @model_validator(mode="after")
    def _known_methods(self) -> Self:
        for method in self.methods:
            get_method(method)
        check_distinct("methods", self.methods)
        if self.dynamics > 0 and self.kernel != "sgd":
            raise InputError(
                f"{named('dynamics')} are those of gradient descent, not of {named('kernel')} "
                f"{self.kernel}: leave one of them out"
            )
        return self


def check_distinct(name: str, values: Sequence[Any]) -> None:
    """Refuse a setting that names nothing, or something twice.

    Raises:
        InputError: it does.
    """
    listed = ",".join(map(str, values))
    if not any(str(value) for value in values):
        raise InputError(f"{named(name)} '{listed}' names nothing: leave it out, or name some")
    if len(set(values)) < len(values):
        raise InputError(f"{named(name)} {listed} names one twice")


class RegressionSettings(Settings):
    """What solvers of kernel regression take; None means the solver's own default."""

    heading = "kernel regression, each for the solvers named first"
    commands = ("ntk",)
    decides = Decides.STATISTICS

    strength_by: Literal["validation", "folds"] = setting(
        "validation",
        "the texts that choose the strength lambda, folds of the training texts or the "
        "validation split; folds too where validation is what is predicted",
        solvers=("klr", "krr"),
    )
    strength: float | None = setting(
        None,
        "lambda itself, in units of the kernel (default: by --strength-by)",
        solvers=("klr", "krr"),
        gt=0,
    )
    f0_scale: float | None = setting(
        None,
        "what multiplies the logits f_0 that the fit starts from (default: 1 of klr and krr, "
        "else 0)",
        solvers=("klr", "krr", "svr", "lstsq", "asymmetric"),
    )
    regularization: float | None = setting(
        None,
        "added to the diagonal of the training kernel, as a share of its largest singular value "
        "(default: 0)",
        solvers=("logistic", "svc", "svr", "lstsq", "asymmetric"),
        ge=0,
    )
    gamma: float | None = setting(
        None,
        "weight of the errors, in units of 1 / kernel (default: 1)",
        solvers=("asymmetric",),
        gt=0,
    )
    mix: float | None = setting(
        None,
        "share of the function of source features, K(x, x_i), in the answer; the rest is that of "
        "target features (default: 0.5)",
        solvers=("asymmetric",),
        ge=0,
        le=1,
    )
    cost: float | None = setting(
        None,
        "C of the slack variables, in units of 1 / kernel (default: 1)",
        solvers=("svc", "svr"),
        gt=0,
    )
    tube: float | None = setting(
        None,
        "deviation that costs nothing, in units of the targets (default: 0.1)",
        solvers=("svr",),
        ge=0,
    )
    single_logit: bool = setting(
        False,
        "of two classes the difference of the logits instead of both",
        solvers=("logistic", "svc", "svr", "lstsq"),
    )

    def of(self, solver: str) -> dict[str, Any]:
        """The keywords of :func:`lpft.ntk.regression.regress` that were given for ``solver``."""
        return {
            name: getattr(self, name)
            for name, item in self.fields().items()
            if solver in item.solvers
            and name != "strength_by"
            and getattr(self, name) != item.default
        }

    def wants_validation(self, solvers: Sequence[str]) -> bool:
        """Whether some solver chooses its strength on validation texts."""
        chooses = bool(set(solvers) & set(self.fields()["strength_by"].solvers))
        return chooses and self.strength is None and self.strength_by == "validation"

    def check(self, solvers: Sequence[str], kernel: str) -> None:
        """Refuse settings that no chosen solver takes, or that contradict each other.

        Raises:
            InputError: the message names the setting and what is expected.
        """
        for name, item in self.fields().items():
            if getattr(self, name) != item.default and not set(solvers) & set(item.solvers):
                raise InputError(
                    f"{named(name)} has no effect with {named('solver')} "
                    f"{','.join(solvers) or 'none'}: it belongs to {', '.join(item.solvers)}; "
                    "choose such a solver, or leave it out"
                )
        if self.strength is not None and self.strength_by != "validation":
            raise InputError(
                f"{named('strength')} and {named('strength_by')} exclude each other: leave one of "
                "them out"
            )
        if self.single_logit and kernel != "sgd":
            raise InputError(
                f"{named('single_logit')} has no kernel of signs: the sign of a difference of "
                f"gradients is not that of each; leave it out of {named('kernel')} {kernel}"
            )


def _seeds(value: Any) -> Any:
    """``3`` is the seeds 0, 1 and 2; ``3,7`` these two; ``3,`` the seed 3 alone."""
    if not isinstance(value, tuple):
        return value
    names = value[:-1] if value and value[-1] == "" else value
    listed = ",".join(map(str, value))
    try:
        numbers = tuple(int(name) for name in names)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{named('seeds')} {listed} must be a number of seeds, or seeds with commas"
        ) from error
    if len(value) == 1:
        if numbers[0] < 1:
            raise InputError(f"{named('seeds')} {numbers[0]}: expected at least one seed")
        return tuple(range(numbers[0]))
    if not all(0 <= number < 2**32 for number in numbers):
        raise InputError(f"{named('seeds')} {listed}: expected seeds from 0 to 2**32 - 1")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{named('seeds')} {listed} names one twice")
    return numbers


class ExperimentSettings(Settings):
    """How much of the paper's experiment is done; None means what the paper did."""

    heading = "experiment"
    commands = ("reproduce",)
    decides = Decides.NOTHING

    model: str = setting(MODEL, "Hub id, model folder, or 'minilm' for the packaged one")
    tasks: tuple[str, ...] | None = setting(
        None, "tasks of lpft tasks, with commas (default: the paper's)"
    )
    methods: tuple[str, ...] | None = setting(
        None, "methods of lpft methods, with commas (default: the paper's)"
    )
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)] = setting(
        tuple(range(SEEDS)),
        f"how many seeds (0, 1, ...), or the seeds themselves with commas (default: {SEEDS})",
    )
    kernel_samples: int | None = setting(
        None,
        "texts of a split at most whose kernel is computed "
        f"(default: by experiment, mostly {KERNEL_SAMPLES})",
        ge=2,
    )
    save_model: bool = setting(False, "keep the trained weights of every run")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name in ("tasks", "methods"):
            if getattr(self, name) is not None:
                check_distinct(name, getattr(self, name))
        return self
