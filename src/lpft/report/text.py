"""Sentences: the templates beside the page, filled with numbers. Python only picks which apply."""

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lpft.results.formats import (
    counted,
    fixed,
    joined,
    rate,
    scientific,
    seconds,
    significant,
    whole,
    with_sd,
)
from lpft.results.groups import method_name, metric_name, model_name

_BLANKS = re.compile(r"[ \n]+")


def say(name: str, /, **values: Any) -> str:
    """The sentence ``name`` of ``sentences.txt.j2`` with these values."""
    filled = getattr(_sentences(), name)(**values)
    return _BLANKS.sub(" ", str(filled)).strip()


@cache
def _sentences() -> Any:
    return environment(is_page=False).get_template("sentences.txt.j2").module


def environment(*, is_page: bool) -> Environment:
    """Jinja with the templates of reports, and filters that write numbers.

    A page escapes what comes from data, and has no blanks where only blocks are.
    """
    found = Environment(
        loader=PackageLoader("lpft.report"),
        autoescape=is_page,
        undefined=StrictUndefined,
        trim_blocks=is_page,
        lstrip_blocks=is_page,
    )
    found.filters |= {
        function.__name__: function
        for function in (
            *(counted, fixed, joined, rate, scientific, seconds, significant, whole, with_sd),
            *(method_name, metric_name, model_name),
        )
    }
    return found
