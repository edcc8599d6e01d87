"""What MkDocs does for this site beside its plugins.

Pages are made from the code and from the files at the top of the repository, so that no option is
described twice; equations become MathML, so that a page needs no script and no network for them.
"""

import inspect
import re
from argparse import Action, BooleanOptionalAction
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any, get_origin

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from lpft.cli.parser import command_parsers
from lpft.settings.configs import command_settings
from lpft.settings.fields import Decides, Setting

ROOT = Path(__file__).resolve().parents[1]


# --- pages that are made


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from code, and those that the repository has at its top."""
    made = {
        "reference/commands.md": commands_page(),
        "reference/settings.md": settings_page(),
        "about/changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "about/contributing.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
    }
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the parameters of TextClassifier where a page asks for them."""
    return markdown.replace("<!-- parameters of TextClassifier -->", parameters_of_the_estimator())


def commands_page() -> str:
    """Every command with every option: what it takes, its default, what it does."""
    parts = [
        "# Commands\n",
        "Made from the program itself: `lpft COMMAND --help` says the same. Every command also "
        "takes `--help`, and `--debug`, which shows the traceback of an error. Exit status: 0 for "
        "success, 1 for an unexpected failure or a failed run, 2 for wrong input, 130 after "
        "Ctrl-C.\n",
    ]
    for name, parser in command_parsers().items():
        parts.append(f"## lpft {name} {{: #{name} }}\n\n{sentence(parser.description or '')}\n")
        positional = [
            f"[{positional_name(action)}]" if action.nargs == "?" else positional_name(action)
            for action in parser._actions
            if not action.option_strings
        ]
        usage = " ".join(["lpft", name, *positional, "[options]"])
        parts.append(f"```\n{usage}\n```\n")
        for group in parser._action_groups:
            options = [action for action in group._group_actions if action.dest != "help"]
            if not options:
                continue
            if group.title not in (None, "options", "positional arguments"):
                parts.append(f"**{sentence(group.title, end='')}**\n")
            parts += [option_entry(name, action) for action in options if action.dest != "debug"]
        if parser.epilog:
            parts.append(parser.epilog.replace("{", "&#123;") + "\n")
    return "\n".join(parts)


def option_entry(command: str, action: Action) -> str:
    """One option, or positional argument, of a command."""
    item = all_settings().get(action.dest)
    if action.option_strings:
        shown, anchor = action.option_strings[0], action.option_strings[0].lstrip("-")
        if isinstance(action, BooleanOptionalAction):
            shown = f"{shown}`, `{action.option_strings[1]}"
    else:
        shown, anchor = positional_name(action), positional_name(action).lower()
    help_text = (action.help or "") % {"default": action.default, "prog": f"lpft {command}"}
    return (
        f'<a id="{command}-{anchor}"></a>`{shown}` {{% kind %}}\n:   {sentence(help_text)}\n'
    ).replace("{% kind %}", kind_of(action, item))


def positional_name(action: Action) -> str:
    return str(action.metavar or action.dest.upper())


def kind_of(action: Action, item: Setting | None) -> str:
    """What an option takes, in words."""
    if action.nargs == 0 or isinstance(action, BooleanOptionalAction):
        return ""
    if action.choices is not None:
        return " · ".join(f"`{choice}`" for choice in action.choices)
    if item is not None:
        return expected(item)
    names: dict[Any, str] = {int: "a whole number", float: "a number", Path: "a path"}
    many = {"+": "one or more of ", "?": "optional: "}.get(str(action.nargs), "")
    return many + names.get(action.type, "text")


def settings_page() -> str:
    """Every setting by name, for YAML files and Python: who takes it and what depends on it."""
    parts = [
        "# Settings\n",
        "Every setting has one name in `--config` files, sweeps and records; on the command line it"
        " is an option with hyphens (`learning_rate`: `--learning-rate`). *Depends on it* says "
        "which results change with the value: it decides whether two runs are the same when one "
        "is resumed or compared. Made from `lpft.settings`.\n",
    ]
    heading = None
    for name, item in all_settings().items():
        if item.owner.heading != heading:
            heading = item.owner.heading
            parts.append(f"## {sentence(heading, end='')}\n")
        facts = [
            f"commands: {', '.join(f'[{c}](commands.md#{c}-{dashed(name)})' for c in taken(item))}"
        ]
        if item.needs is not None:
            facts.append(f"needs: {item.needs}")
        facts.append(f"depends on it: {depends(item.decides)}")
        parts.append(
            f'<a id="{name}"></a>`{name}` {kind_of_setting(item)}\n'
            f":   {sentence(item.full_help().replace('%%', '%'))}\n\n    {'; '.join(facts)}\n"
        )
    return "\n".join(parts)


@cache
def all_settings() -> dict[str, Setting]:
    """Every setting that a command takes, those of one model beside each other."""
    found = {
        name: item
        for command in command_parsers()
        for name, item in command_settings(command).items()
    }
    owners = list(dict.fromkeys(item.owner for item in found.values()))
    return dict(sorted(found.items(), key=lambda pair: owners.index(pair[1].owner)))


def taken(item: Setting) -> list[str]:
    """The commands that have an option for it."""
    return [
        name
        for name, parser in command_parsers().items()
        if any(f"--{dashed(item.name)}" in action.option_strings for action in parser._actions)
    ]


def kind_of_setting(item: Setting) -> str:
    if item.choices is not None:
        return " · ".join(f"`{choice}`" for choice in item.choices)
    return expected(item)


def expected(item: Setting) -> str:
    if get_origin(item.type) is dict:
        return f"`{item.form}`" if item.form else "a mapping"
    return item.expected()


def depends(decides: Decides) -> str:
    words = {
        Decides.RUN: "a run",
        Decides.KERNEL: "kernels",
        Decides.STATISTICS: "what is computed from kernels",
        Decides.ROUNDING: "a kernel's last digits",
    }
    return ", ".join(word for flag, word in words.items() if flag in decides) or "nothing"


def parameters_of_the_estimator() -> str:
    """The parameters of TextClassifier with the help of the options of the same name."""
    from lpft import TextClassifier

    entries = []
    for name, parameter in list(inspect.signature(TextClassifier.__init__).parameters.items())[1:]:
        item = all_settings().get(name)
        text = "show progress" if item is None else item.full_help().replace("%%", "%")
        kind = "true or false" if item is None else kind_of_setting(item)
        entries.append(f"`{name}={parameter.default!r}` {kind}\n:   {sentence(text)}\n")
    return "\n".join(entries)


def sentence(text: str, *, end: str = ".") -> str:
    """A phrase of ``--help`` as a sentence; text in braces and angles is not markup."""
    text = text.strip().replace("<", "&lt;")
    first = text[:1].upper() if not re.match(r"[a-z0-9_]+[:=]", text) else text[:1]
    return first + text[1:] + ("" if text.endswith((".", ":")) else end)


def dashed(name: str) -> str:
    return name.replace("_", "-")


# --- equations


def on_page_content(html: str, **_: Any) -> str:
    """Equations, which arithmatex has marked, as MathML."""
    html = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>',
        lambda found: convert(unescape(found[1])),
        html,
        flags=re.DOTALL,
    )
    return re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>',
        lambda found: f'<div class="equation">{convert(unescape(found[1]), display="block")}</div>',
        html,
        flags=re.DOTALL,
    )
