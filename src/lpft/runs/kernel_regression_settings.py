"""The options of kernel regression that ``lpft ntk`` hands to the solvers that take them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Literal, get_args

from lpft.errors import InputError
from lpft.training.settings import setting

StrengthRows = Literal["validation", "folds"]

TAKEN_BY: dict[str, tuple[str, ...]] = {
    "strength_by": ("klr", "krr"),
    "strength": ("klr", "krr"),
    "f0_scale": ("klr", "krr", "svr", "lstsq", "asymmetric"),
    "regularization": ("logistic", "svc", "svr", "lstsq", "asymmetric"),
    "gamma": ("asymmetric",),
    "mix": ("asymmetric",),
    "cost": ("svc", "svr"),
    "tube": ("svr",),
    "single_logit": ("logistic", "svc", "svr", "lstsq"),
}
"""The solvers that take each option; None of an option means the solver's own default."""

_ABOVE_ZERO = ("strength", "gamma", "cost")
_AT_LEAST_ZERO = ("regularization", "tube")


@dataclass(frozen=True)
class RegressionSettings:
    """What the solvers of kernel regression are told; :data:`TAKEN_BY` says which of them."""

    strength_by: StrengthRows = setting(
        "validation",
        "klr, krr: the texts that choose the strength lambda, folds of the training texts or the "
        "validation split; folds too where validation is what is predicted",
        get_args(StrengthRows),
    )
    strength: float | None = setting(
        None, "klr, krr: lambda itself, in units of the kernel (default: by --strength-by)"
    )
    f0_scale: float | None = setting(
        None,
        "klr, krr, svr, lstsq, asymmetric: what multiplies the logits f_0 that the fit starts from "
        "(default: 1 of klr and krr, else 0)",
    )
    regularization: float | None = setting(
        None,
        "logistic, svc, svr, lstsq, asymmetric: added to the diagonal of the training kernel, as a "
        "share of its largest singular value (default: 0)",
    )
    gamma: float | None = setting(
        None, "asymmetric: weight of the errors, in units of 1 / kernel (default: 1)"
    )
    mix: float | None = setting(
        None,
        "asymmetric: share of the function of source features, K(x, x_i), in the answer; the rest "
        "is that of target features (default: 0.5)",
    )
    cost: float | None = setting(
        None, "svc, svr: C of the slack variables, in units of 1 / kernel (default: 1)"
    )
    tube: float | None = setting(
        None, "svr: deviation that costs nothing, in units of the targets (default: 0.1)"
    )
    single_logit: bool = setting(
        False,
        "logistic, svc, svr, lstsq: of two classes the difference of the logits instead of both",
    )

    def of(self, solver: str) -> dict[str, Any]:
        """The keywords of :func:`lpft.ntk.regression.regress` that were given for ``solver``."""
        given = {name: getattr(self, name) for name in TAKEN_BY if name != "strength_by"}
        return {
            name: value
            for name, value in given.items()
            if solver in TAKEN_BY[name] and value is not None and value is not False
        }

    def wants_validation(self, solvers: Sequence[str]) -> bool:
        """Whether some solver chooses its strength on validation texts."""
        chooses = bool(set(solvers) & set(TAKEN_BY["strength_by"]))
        return chooses and self.strength is None and self.strength_by == "validation"


def check_regression(settings: RegressionSettings, solvers: Sequence[str], kernel: str) -> None:
    """Refuse options that no chosen solver takes, and values that none can take.

    Raises:
        InputError: the message names the option and what is expected.
    """
    for item in fields(RegressionSettings):
        value, option = getattr(settings, item.name), "--" + item.name.replace("_", "-")
        if value == item.default:
            continue
        takers = TAKEN_BY[item.name]
        if not set(solvers) & set(takers):
            raise InputError(
                f"{option} has no effect with --solver {','.join(solvers) or 'none'}: "
                f"it belongs to {', '.join(takers)}; choose such a solver, or leave it out"
            )
        _check_range(option, item.name, value)
    if settings.strength is not None and settings.strength_by != "validation":
        raise InputError("--strength and --strength-by exclude each other: leave one of them out")
    if settings.single_logit and kernel != "sgd":
        raise InputError(
            f"--single-logit has no kernel of signs: the sign of a difference of gradients is not "
            f"that of each; leave it out of --kernel {kernel}"
        )


def _check_range(option: str, name: str, value: Any) -> None:
    if isinstance(value, float) and not isfinite(value):
        raise InputError(f"{option} {value} must be a finite number")
    if name in _ABOVE_ZERO and value <= 0:
        raise InputError(f"{option} {value} must be a number above 0")
    if name in _AT_LEAST_ZERO and value < 0:
        raise InputError(f"{option} {value} must be a number of at least 0")
    if name == "mix" and not 0 <= value <= 1:
        raise InputError(f"{option} {value} must be a number from 0 to 1")
