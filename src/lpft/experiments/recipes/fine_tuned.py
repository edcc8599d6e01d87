"""The methods of a scope that fine-tune: what figures of training and kernels compare."""

from lpft.errors import InputError
from lpft.experiments.recipe import Scope
from lpft.settings import get_method


def fine_tuned_methods(scope: Scope) -> tuple[str, ...]:
    """The scope's methods without linear probing alone.

    Raises:
        InputError: none is left.
    """
    methods = tuple(method for method in scope.methods if get_method(method).fine_tunes)
    if not methods:
        raise InputError(
            f"this experiment compares methods that fine-tune, found {', '.join(scope.methods)}: "
            "name others with --methods, such as ft,lp-ft"
        )
    return methods
