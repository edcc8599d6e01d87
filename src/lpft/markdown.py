"""Templates of Markdown files, which packages of lpft keep in their folder ``templates``."""

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def markdown_template(package: str, name: str, **filters: Callable[..., str]) -> Template:
    """The template ``name`` of a package, in which an unknown variable is an error."""
    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
