"""Every setting of a training run: name, type, default, range, help, effect.

Importing this module loads neither torch nor transformers.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from lpft.errors import InputError, named
from lpft.settings.fields import Decides, Need, Settings, setting
from lpft.settings.methods import (
    AUTO,
    LEARNING_RATES,
    METHODS,
    MINILM_LEARNING_RATES,
    get_method,
)
from lpft.settings.values import Delimiter, Encoding, File, Layout, read_peft_config, read_template

MINILM = "minilm"
"""The name of the model that comes with the ``demo`` extra."""

Pooling = Literal["first", "last", "mean", "mask"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
ClassWeight = dict[str, Annotated[float, Field(gt=0)]] | Literal["balanced"]
"""Weights by class name, of which those that are not named weigh 1, or by inverse frequency."""
ProbeScoring = Literal["accuracy", "log-loss"]
SplitProtocol = Literal["paper", "stratified"]
ExportFormat = Literal["transformers", "onnx"]
Quantization = Literal["int8"]
Backend = Literal["torch", "onnx"]
Venue = Literal["neurips", "icml", "icml-column", "acl", "acl-column"]


_BOTH = Decides.RUN | Decides.KERNEL
_OF_FILES = {"needs": "files", "commands": ("train", "check", "ntk")}
_FILE = {**_OF_FILES, "fingerprinted": _BOTH}
_TUNING = {"needs": "fine-tuning", "decides": Decides.RUN, "commands": ("train", "reproduce")}


class DataSettings(Settings):
    """Where the texts come from: a task by name, or the user's own files."""

    heading = "data"
    commands = ("train", "check", "ntk", "reproduce")
    decides = _BOTH

    task: str | None = setting(
        None, "name of a task (lpft tasks lists them)", commands=("train", "check", "ntk")
    )
    data_dir: File | None = setting(
        None,
        "folder with official release files: of all benchmarks, one benchmark or the task "
        "(default: download from the Hugging Face Hub)",
        decides=Decides.NOTHING,
        needs="task",
    )
    template: int = setting(0, "number of the task's input template", needs="task")
    train_file: File | None = setting(
        None, "labelled texts: CSV, TSV, JSON Lines or Parquet", **_FILE
    )
    validation_file: File | None = setting(
        None,
        "labelled texts for validation (default: 10%% of each class of the training file)",
        **_FILE,
    )
    test_file: File | None = setting(
        None, "labelled texts for testing (default: no test split)", **_FILE
    )
    ood: dict[str, File] = setting(
        {},
        "labelled texts from another distribution, under a name of your choice; may be repeated",
        decides=Decides.RUN,
        fingerprinted=Decides.RUN,
        needs="files",
        form="NAME=FILE",
        commands=("train", "check"),
    )
    text_columns: tuple[str, ...] | None = setting(
        None,
        "text column, or two for pairs, separated by a comma; in JSON files data.text is the "
        "field text of the object data (default: the only text column)",
        set_by_data=True,
        **_OF_FILES,
    )
    label_column: str = setting("label", "column with the class names", **_OF_FILES)
    column_names: tuple[str, ...] | None = setting(
        None,
        "names of all columns, separated by commas, for CSV and TSV files without a header line",
        **_FILE,
    )
    encoding: Encoding | None = setting(
        None,
        "encoding of all text files, such as latin-1, cp1252 or utf-16; describes these files "
        "only and is not stored with the model (default: UTF-8)",
        **_FILE,
    )
    delimiter: Delimiter | None = setting(
        None,
        "character between the fields of all CSV and TSV files, such as ';', or tab; not stored "
        "with the model either (default: a comma in .csv files, a tab in .tsv and .txt files)",
        **_FILE,
    )
    data_name: str | None = setting(
        None,
        "name of the data in records and reports (default: the name of --train-file, or of its "
        "folder where the file is called train, training, data or dataset)",
        decides=Decides.NOTHING,
        **_OF_FILES,
    )
    split_protocol: SplitProtocol | None = setting(
        None,
        "how validation rows are held out; paper: the last tenth of the training rows; "
        "stratified: a tenth of each class (default: paper for tasks, stratified for files)",
    )
    max_train_samples: int | None = setting(
        None,
        "use at most this many training rows, drawn in proportion to the classes with a fixed "
        "seed (default: all)",
        ge=2,
    )
    max_validation_samples: int | None = setting(
        None,
        "use at most this many validation rows, drawn in the same way; they choose the epoch and "
        "fit the temperature (default: all)",
        ge=2,
    )

    @property
    def layout(self) -> Layout:
        """How its files are written."""
        return Layout(self.column_names, self.encoding, self.delimiter)

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
                f"no data: expected {named('task')} NAME (see lpft tasks) or "
                f"{named('train_file')} FILE"
            )
        if useless:
            raise InputError(
                f"{named('data_dir')} and {named('template')} only apply with {named('task')}: "
                "leave them out"
            )
        if self.data_name is not None and not self.data_name.strip():
            raise InputError(f"{named('data_name')} is empty: give a name or leave it out")
        return self


class TrainingSettings(Settings):
    """How a model is built and trained; :func:`resolve` replaces None by the default."""

    heading = "model and training"
    commands = ("train", "ntk", "reproduce")
    decides = _BOTH

    model: str = setting(
        MINILM,
        f"Hub id, model folder, or '{MINILM}' for the packaged model",
        fingerprinted=_BOTH,
        commands=("train", "check", "ntk"),
    )
    revision: str | None = setting(
        None,
        "branch, tag or commit of a Hub model (default: its main branch)",
        fingerprinted=_BOTH,
        commands=("train", "check", "ntk", "reproduce"),
    )
    pooling: Pooling | None = setting(
        None,
        "token whose state is the feature, or the mean over tokens (default: by model); with "
        "--prompt the mask, or the last token of causal models",
        fingerprinted=Decides.KERNEL,
        set_by_model=True,
    )
    prompt: str | None = setting(
        None,
        "template around every text, such as '{text} It was [MASK].' (pairs: {text} and "
        "{text_b}); the feature is the state from which the language model predicts the word at "
        "the blank, or with causal models the word after the template (default: the text alone)",
        form="TEMPLATE",
        commands=("train", "ntk"),
    )
    label_words: dict[str, str] | None = setting(
        None,
        "the word at the blank that stands for a class; separate several by commas, or repeat the "
        "option; the head starts from the words' rows in the language model's output embedding "
        "(default: none)",
        needs="label words",
        form="LABEL=WORD",
        separated=True,
        commands=("train", "ntk"),
    )
    first_token: bool = setting(
        False,
        "use the first token of a label word that has several; otherwise such words are refused",
        needs="label words",
        commands=("train", "ntk"),
    )
    head_bias: bool = setting(True, "give the linear head a bias")
    max_length: int | None = setting(
        None,
        "cut texts after this many tokens (default: 128 under the paper's protocol; otherwise the "
        "longest training text stays whole, in steps of 128, up to 512 and the model's limit)",
        gt=0,
        set_by_model=True,
        commands=("train", "check", "ntk", "reproduce"),
    )
    method: str = setting(
        "lp-ft",
        "training method (lpft methods explains them); auto: train several and keep one",
        choices=(*METHODS, AUTO),
        decides=Decides.RUN,
        commands=("train",),
    )
    seed: int = setting(
        0,
        "random seed for the head, the adapter, dropout and the order of batches",
        ge=0,
        le=2**32 - 1,
        same_time=True,
        commands=("train", "ntk"),
    )
    epochs: float | None = setting(
        None,
        "passes over the training rows (default: 10; for contrastive tuning 20, with at most "
        "--contrastive-steps steps)",
        gt=0,
        fallback=10.0,
        fallback_by_trained={"encoder": 20.0},
        **_TUNING,
    )
    contrastive_steps: int | None = setting(
        None,
        "largest number of steps of contrastive tuning, whatever the epochs",
        gt=0,
        needs="contrastive tuning",
        fallback=100,
        decides=Decides.RUN,
        commands=("train",),
    )
    batch_size: int | None = setting(
        None,
        "rows per step; contrastive tuning uses all pairs of them (default: by task and method)",
        gt=0,
        le=2**31 - 1,
        fallback=16,
        fallback_by_trained={"encoder": 32},
        **_TUNING,
    )
    # FT and LP-FT share one default, and so do LoRA and LP-LoRA, so that a difference between
    # them is a difference of their heads.
    learning_rate: float | None = setting(
        None,
        "initial learning rate of AdamW, which decays linearly to 0 "
        "(default: by task, method and model)",
        gt=0,
        fallback=2e-5,
        fallback_by_trained=LEARNING_RATES,
        fallback_for_minilm=MINILM_LEARNING_RATES,
        same_time=True,
        **_TUNING,
    )
    weight_decay: float | None = setting(
        None, "decoupled weight decay of AdamW", ge=0, fallback=0.0, same_time=True, **_TUNING
    )
    patience: int | None = setting(
        None,
        "stop fine-tuning after this many epochs without an improvement on validation; the "
        "learning rate decays as if all epochs were trained (default: train every epoch)",
        ge=1,
        needs="fine-tuning of the head",
        decides=Decides.RUN,
        commands=("train",),
    )
    head_scale: float | None = setting(
        None,
        "multiply the head (weight and bias) by this just before fine-tuning; below 1, "
        "fine-tuning starts from the same predictions with a larger loss (default: 1; in training "
        "0.3 for LP-FT with the packaged model where no hyperparameters are published)",
        ge=0,
        needs="fine-tuning of the head",
        fallback=1.0,
        fallback_for_minilm={"lp-ft": 0.3},
        same_time=True,
        commands=("train", "ntk"),
    )
    lora_rank: int | None = setting(
        None, "rank r of the factors of LoRA and DoRA", gt=0, needs="low-rank factors", fallback=8
    )
    lora_alpha: float | None = setting(
        None,
        "alpha of LoRA and DoRA, which scales their factors by alpha / r",
        gt=0,
        needs="low-rank factors",
        fallback=8.0,
    )
    prefix_length: int | None = setting(
        None,
        "number of virtual tokens in prefix tuning",
        gt=0,
        needs="prefix",
        fallback=16,
        commands=("train", "ntk"),
    )
    peft_config: Annotated[dict | None, BeforeValidator(read_peft_config)] = setting(
        None,
        "for methods peft and lp-peft: a JSON file like PEFT's adapter_config.json, or a folder "
        "with one (default: none)",
        needs="PEFT configuration",
        form="FILE",
        commands=("train", "ntk"),
    )
    probe_scoring: ProbeScoring | None = setting(
        None,
        "score by which cross-validation chooses the regularisation of linear probing (default: "
        "accuracy under --split-protocol paper, as in the paper, otherwise log-loss)",
        needs="probing",
        fallback="log-loss",
        in_old_records="accuracy",
        same_time=True,
    )
    class_weight: ClassWeight | None = setting(
        None,
        "class weights in probing and fine-tuning: balanced, by inverse frequency, or a class "
        "with its weight, which may be repeated; other classes weigh 1 (default: no weights)",
        words=("balanced",),
        form="balanced|LABEL=WEIGHT",
    )
    device: Device = setting(
        "auto", "device to compute on; auto uses a GPU if there is one", decides=Decides.NOTHING
    )
    precision: Precision = setting(
        "auto",
        "precision of matrix products in fine-tuning; auto: bfloat16 where the hardware makes it "
        "faster and a first batch agrees with float32 within 5%%, otherwise float32; under "
        "--split-protocol paper always float32, which every machine has; "
        "evaluation and prediction always use float32",
        in_old_records="float32",
        placeholder="auto",
        **_TUNING,
    )
    gradient_accumulation_steps: int = setting(
        1,
        "number of parts in which a step of fine-tuning computes its batch, one after the other, "
        "to save memory; --batch-size still counts the rows of the whole step, and must be a "
        "multiple",
        ge=1,
        **_TUNING,
    )
    gradient_checkpointing: bool = setting(
        False,
        "recompute every layer in the backward pass instead of storing its activations: less "
        "memory for one more forward pass, and the same result",
        decides=Decides.NOTHING,
        needs="fine-tuning",
        commands=("train", "reproduce"),
    )
    report_to: str = setting(
        "none",
        "experiment trackers that the Trainer reports to: none, tensorboard, wandb, mlflow, ...",
        decides=Decides.NOTHING,
        needs="fine-tuning",
        commands=("train",),
    )

    @model_validator(mode="after")
    def _known_method(self) -> Self:
        if self.method != AUTO:
            get_method(self.method, instead=(AUTO,))
        return self

    @model_validator(mode="after")
    def _whole_prompt(self) -> Self:
        if self.prompt is not None:
            read_template(self.prompt)
            # 'mask' and 'last' as the record of a run has them, where the model filled them in.
            if self.pooling not in (None, "mask", "last"):
                raise InputError(
                    f"{named('pooling')} {self.pooling} has no effect with {named('prompt')}, "
                    "which takes the feature at the blank: leave one of them out"
                )
        elif self.pooling == "mask":
            raise InputError(
                f"{named('pooling')} mask needs {named('prompt')}, a template with a blank: give "
                "one, or another pooling"
            )
        elif self.label_words is not None:
            raise InputError(
                f"{named('label_words')} needs {named('prompt')}, the template whose blank they "
                "fill: give one, such as '{text} It was [MASK].'"
            )
        return self


class SelectionSettings(Settings):
    """Several runs on the same data, of which one is kept."""

    heading = "several runs, of which one is kept"
    commands = ("train",)
    decides = Decides.RUN

    seeds: int = setting(
        1,
        "train with this many seeds, starting at --seed, and keep the run that is best on "
        "validation",
        ge=1,
    )
    tune: int = setting(
        0,
        "number of runs in a search for the learning rate and the epochs, and with --method auto "
        "the method; needs the tune extra; 0: no search",
        ge=0,
    )
    workers: int = setting(
        1,
        "with --tune: number of runs at a time, each in its own process; runs that start together "
        "are chosen by the scores of earlier ones",
        ge=1,
    )
    executor: Literal["local", "ray"] = setting(
        "local",
        "with --tune: where to train, on this machine or on a Ray cluster (docs/scale.md)",
        decides=Decides.NOTHING,
    )
    stop_after: Literal["lp", "lp-ft"] | None = setting(
        None,
        "with --method auto: train no method after this one (default: all that can still win)",
    )
    max_minutes: float | None = setting(
        None,
        "start no further run that is not expected to finish within this many minutes of training "
        "in all (default: no limit)",
        gt=0,
    )

    @model_validator(mode="after")
    def _one_kind_of_search(self) -> Self:
        if self.tune > 0:
            for name, value in (("seeds", self.seeds > 1), ("stop_after", self.stop_after)):
                if value:
                    raise InputError(
                        f"{named('tune')} and {named(name)} exclude each other: leave one out"
                    )
        for name in ("workers", "executor"):
            if self.tune == 0 and getattr(self, name) != self.fields()[name].default:
                raise InputError(
                    f"{named(name)} is for {named('tune')}: give both, or leave it out; lpft sweep "
                    "trains other runs at the same time"
                )
        return self

    def refuse(self, where: str) -> None:
        """Refuse settings that differ from their defaults.

        Raises:
            InputError: there is one.
        """
        for name, item in self.fields().items():
            if getattr(self, name) != item.default:
                raise InputError(
                    f"{named(name)} has no effect on {where}: leave it out, or give lpft train "
                    f"{named('method')} auto, {named('seeds')} or {named('tune')}"
                )


THRESHOLDS = ("target_accuracy", "target_coverage", "abstain_below")
"""Settings that choose the confidence below which a classifier abstains: at most one is given."""


class OutputSettings(Settings):
    """What a run saves besides its numbers, and when its classifier abstains."""

    heading = "what is saved"
    commands = ("train",)
    decides = Decides.NOTHING

    save_model: bool = setting(True, "save the trained weights in the run's folder")
    save_features: bool = setting(
        False, "save every text's features before and after training, and the trained head"
    )
    keep_checkpoints: bool = setting(
        False,
        "save in checkpoints/ the parameters that fine-tuning trains, at its start and after "
        "every epoch: a few MB each with an adapter, otherwise as large as the model; lpft ntk "
        "RUN --path reads them",
        needs="fine-tuning of the head",
    )
    texts_in_report: bool = setting(
        True,
        "save misclassified texts in errors.jsonl, from which the report shows them; otherwise it "
        "shows row numbers only",
    )
    target_accuracy: float | None = setting(
        None,
        "let the classifier abstain below a confidence, the lowest at which the validation rows "
        "show, with 95%% confidence, that accepted predictions are this accurate, as a fraction "
        "(default: never abstain)",
        gt=0,
        lt=1,
    )
    target_coverage: float | None = setting(
        None,
        "let the classifier abstain below a confidence, so that it accepts this share of texts "
        "like the validation rows, as a fraction (default: never abstain)",
        gt=0,
        le=1,
    )
    abstain_below: float | None = setting(
        None,
        "let the classifier abstain where its largest probability is below this (default: never "
        "abstain)",
        gt=0,
        le=1,
    )

    @property
    def threshold(self) -> dict[str, float]:
        """The setting that chooses the confidence below which to abstain, if one is given."""
        values = {name: getattr(self, name) for name in THRESHOLDS}
        return {name: value for name, value in values.items() if value is not None}

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if len(self.threshold) > 1:
            first, second, *_ = self.threshold
            raise InputError(
                f"{named(first)} and {named(second)} exclude each other: give one of them"
            )
        return self


def resolve(
    settings: TrainingSettings, published: Mapping[str, Any] | None = None
) -> TrainingSettings:
    """Replace every None by the value in ``published`` (a task's hyperparameters) or the default.

    With nothing published, the packaged model takes what was measured with it.

    Raises:
        InputError: a setting has no effect with the chosen method.
    """
    method = get_method(settings.method)
    if method.trained == "peft" and settings.peft_config is None:
        raise InputError(
            f"{named('method')} {method.name} needs {named('peft_config')}: give a JSON file of "
            "the form of PEFT's adapter_config.json, or choose another method"
        )
    if method.head_start == "words" and (settings.prompt is None or settings.label_words is None):
        missing = "prompt" if settings.prompt is None else "label_words"
        raise InputError(
            f"{named('method')} {method.name} needs {named(missing)}: give "
            f"{named('prompt')} '{{text}} It was [MASK].' or so, and for each class its word with "
            f"{named('label_words')}"
        )
    filled = {}
    for name, item in TrainingSettings.fields().items():
        if not method.takes(item):
            if getattr(settings, name) != item.default:
                raise InputError(
                    f"{named(name)} has no effect with {named('method')} {method.name} "
                    f"({method.summary}): leave it out or choose another method"
                )
        elif getattr(settings, name) is None:
            filled[name] = default_value(name, method.name, None if published else settings.model)
    if published is not None:
        filled |= {name: value for name, value in published.items() if name in filled}
    resolved = settings.model_copy(update=filled)
    batch_size, parts = resolved.batch_size, resolved.gradient_accumulation_steps
    if batch_size is not None and batch_size % parts:
        raise InputError(
            f"{named('gradient_accumulation_steps')} {parts}: expected a divisor of "
            f"{named('batch_size')} {batch_size}, as a batch is computed in equal parts"
        )
    return resolved


def default_value(name: str, method: str, model: str | None = None) -> Any:
    """The default of a training setting with a method: for any model, or for this one.

    Raises:
        InputError: there is no such method.
    """
    item, row = TrainingSettings.fields()[name], get_method(method)
    usual = item.fallback_by_trained.get(row.trained, item.fallback)
    if model != MINILM:
        return usual
    usual = item.fallback_for_minilm.get(row.trained, usual)
    return item.fallback_for_minilm.get(row.name, usual)


def effective_epochs(settings: TrainingSettings, rows: int) -> float:
    """The epochs of training on ``rows`` rows: contrastive tuning stops at a limit of steps."""
    if settings.epochs is None or settings.batch_size is None:
        return 0.0  # linear probing
    if settings.contrastive_steps is None:
        return settings.epochs
    return min(settings.epochs, settings.contrastive_steps / -(-rows // settings.batch_size))


def unused_settings(method: str) -> tuple[str, ...]:
    """The names of the settings that have no effect with a method.

    Raises:
        InputError: there is no such method.
    """
    row = get_method(method)
    fields = TrainingSettings.fields().values()
    return tuple(item.name for item in fields if not row.takes(item))


def reset_unused(settings: TrainingSettings) -> TrainingSettings:
    """The settings, reset to their defaults where they have no effect with the method.

    :class:`lpft.TextClassifier` needs it, as a search of scikit-learn sets parameters for several
    methods at once. The command line refuses such settings instead.
    """
    names = () if settings.method == AUTO else unused_settings(settings.method)
    fields = TrainingSettings.fields()
    return settings.model_copy(update={name: fields[name].default for name in names})
