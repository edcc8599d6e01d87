"""The settings of kernels and of kernel regression."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, model_validator

from lpft.errors import InputError, named
from lpft.settings.fields import Decides, Settings, setting
from lpft.settings.methods import get_method

KernelKind = Literal["sgd", "signgd", "asymmetric"]
LinearMethod = Literal["auto", "materialize", "token_gram", "sandwich"]
Products = Literal["exact", "tf32", "bfloat16"]
Granularity = Literal["layer", "kind"]
Solver = Literal["paper", "klr", "krr", "logistic", "svc", "svr", "lstsq", "asymmetric"]


def _or_none(value: Any) -> Any:
    """``none`` stands for an empty list of values."""
    return () if value in (("none",), ["none"]) else value


class KernelSettings(Settings):
    """Which kernels are computed, how, and what is predicted from them."""

    heading = "kernels"
    commands = ("ntk",)
    decides = Decides.KERNEL

    methods: tuple[str, ...] = setting(
        ("ft", "lora", "lp-ft", "lp-lora"),
        "methods whose kernel at the start of fine-tuning is computed, separated by commas",
    )
    max_samples: int = setting(
        250,
        "use at most this many texts per split, drawn in proportion to the classes with a fixed "
        "seed",
        ge=2,
    )
    kernel: KernelKind = setting(
        "sgd",
        "sgd: the NTK; signgd: with the signs of both gradients; asymmetric: with the sign of one",
    )
    solver: Annotated[tuple[Solver, ...], BeforeValidator(_or_none)] = setting(
        ("paper", "klr"),
        "solvers of kernel regression, separated by commas: some of "
        f"{', '.join(get_args(Solver))}; or none",
        decides=Decides.STATISTICS,
    )
    granularity: Annotated[tuple[Granularity, ...], BeforeValidator(_or_none)] = setting(
        ("layer", "kind"),
        "parts of F to record, separated by commas: layer, kind (of parameter); or none",
    )
    linear_method: LinearMethod = setting(
        "auto",
        "how the gradients of linear weights are contracted; auto: the cheapest way for each "
        "weight",
        decides=Decides.ROUNDING,
    )
    products: Products = setting(
        "exact",
        "precision of products of gradients; tf32 and bfloat16 are faster, and their error is "
        "reported",
    )
    dtype: Literal["float32", "float64"] = setting(
        "float32", "floating-point type of passes and products; sums are in float64"
    )
    with_start: bool = setting(
        False,
        "for a trained run: also compute the kernel at the start of its training, and compare the "
        "two",
    )
    path: bool = setting(
        False,
        "for a run trained with --keep-checkpoints: also compute the kernel after every epoch, "
        "its distance from the kernel at the start, and whether training stayed in the kernel "
        "regime",
        decides=Decides.STATISTICS,
    )
    dynamics: int = setting(
        0,
        "number of training texts for gradient descent (one step, and up to 20), which is "
        "compared with the first-order change and with the kernel's linear model; 0: none",
        decides=Decides.STATISTICS,
        ge=0,
    )
    memory: str | None = setting(
        None,
        "limit on the memory of the whole process, such as 6GB (default: half of the free memory)",
        decides=Decides.NOTHING,
    )

    @model_validator(mode="after")
    def _known_methods(self) -> Self:
        for method in self.methods:
            get_method(method)
        check_distinct("methods", self.methods)
        for name in ("dynamics", "path"):
            if getattr(self, name) and self.kernel != "sgd":
                raise InputError(
                    f"{named(name)} is for gradient descent, not for {named('kernel')} "
                    f"{self.kernel}: leave one of them out"
                )
        return self


def check_distinct(name: str, values: Sequence[Any]) -> None:
    """Refuse a list of names that is empty or has duplicates.

    Raises:
        InputError: it is or has.
    """
    names = ",".join(map(str, values))
    if not any(str(value) for value in values):
        raise InputError(f"{named(name)} '{names}' is empty: give some names or leave it out")
    if len(set(values)) < len(values):
        raise InputError(f"{named(name)} {names} has duplicates: give each name once")


class RegressionSettings(Settings):
    """Options of the solvers of kernel regression; None means the solver's own default."""

    heading = "kernel regression (each option starts with the solvers that take it)"
    commands = ("ntk",)
    decides = Decides.STATISTICS

    strength_by: Literal["validation", "folds"] = setting(
        "validation",
        "texts that choose the strength lambda: the validation split, or folds of the training "
        "texts; always folds if validation is the split that is predicted",
        solvers=("klr", "krr"),
    )
    strength: float | None = setting(
        None,
        "fixed lambda, in units of the kernel (default: chosen by --strength-by)",
        solvers=("klr", "krr"),
        gt=0,
    )
    f0_scale: float | None = setting(
        None,
        "factor on the initial logits f_0 that the fit starts from (default: 1 for klr and krr, "
        "otherwise 0)",
        solvers=("klr", "krr", "svr", "lstsq", "asymmetric"),
    )
    regularization: float | None = setting(
        None,
        "term added to the diagonal of the training kernel, as a share of its largest singular "
        "value (default: 0)",
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
        "share of the source features' function, K(x, x_i), in the prediction; the rest comes from "
        "the target features (default: 0.5)",
        solvers=("asymmetric",),
        ge=0,
        le=1,
    )
    cost: float | None = setting(
        None,
        "cost C of the slack variables, in units of 1 / kernel (default: 1)",
        solvers=("svc", "svr"),
        gt=0,
    )
    tube: float | None = setting(
        None,
        "half-width of the tube in which deviations cost nothing, in units of the targets "
        "(default: 0.1)",
        solvers=("svr",),
        ge=0,
    )
    single_logit: bool = setting(
        False,
        "for two classes, use the difference of the logits instead of both",
        solvers=("logistic", "svc", "svr", "lstsq"),
    )

    def of(self, solver: str) -> dict[str, Any]:
        """The non-default keywords of :func:`lpft.ntk.regression.regress` for ``solver``."""
        return {
            name: getattr(self, name)
            for name, item in self.fields().items()
            if solver in item.solvers
            and name != "strength_by"
            and getattr(self, name) != item.default
        }

    def needs_validation(self, solvers: Sequence[str]) -> bool:
        """Whether some solver chooses its strength on validation texts."""
        chooses = bool(set(solvers) & set(self.fields()["strength_by"].solvers))
        return chooses and self.strength is None and self.strength_by == "validation"

    def check(self, solvers: Sequence[str], kernel: str) -> None:
        """Refuse settings that no chosen solver takes, and contradictory ones.

        Raises:
            InputError: there is such a setting.
        """
        for name, item in self.fields().items():
            if getattr(self, name) != item.default and not set(solvers) & set(item.solvers):
                raise InputError(
                    f"{named(name)} has no effect with {named('solver')} "
                    f"{','.join(solvers) or 'none'}: it applies to {', '.join(item.solvers)}; "
                    "choose such a solver or leave it out"
                )
        if self.strength is not None and self.strength_by != "validation":
            raise InputError(
                f"{named('strength')} and {named('strength_by')} exclude each other: leave one of "
                "them out"
            )
        if self.single_logit and kernel != "sgd":
            raise InputError(
                f"{named('single_logit')} does not work with {named('kernel')} {kernel}: the sign "
                "of a difference of gradients does not follow from their signs; leave one of them "
                "out"
            )
