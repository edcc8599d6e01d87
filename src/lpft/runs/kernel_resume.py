"""What unfinished kernels were begun with, and whether a command asks for the same ones."""

import json
from pathlib import Path
from typing import Any

from lpft.errors import InputError
from lpft.files import write_json
from lpft.runs.environment import environment
from lpft.runs.kernel_texts import KernelTexts
from lpft.settings import KernelConfig, RegressionSettings, setting_fields

_DECIDE_NO_PIECE = frozenset(
    {"model", "revision", "pooling", "device", "memory", "solver", "dynamics"}
    | {"data_dir", "train_file", "validation_file", "test_file", "column_names", "data_name"}
    | set(setting_fields((RegressionSettings,)))
)
"""Settings that no piece of a kernel depends on, or whose effect has a fingerprint of its own."""

_CHANGED = {"data": "the data", "encoder": "the model's weights"}


def beginnings(
    config: KernelConfig, texts: KernelTexts, data: dict[str, str], encoder: str, device: Any
) -> dict[str, Any]:
    """All that decides the pieces of one pass, ready for JSON."""
    settings = config.flat()
    return {
        "settings": {name: v for name, v in settings.items() if name not in _DECIDE_NO_PIECE},
        "validation texts": texts.validation_rows,
        "data": data,
        "encoder": encoder,
        "device": device.type,
        "versions": environment(device)["versions"],
    }


def check_beginnings(folder: Path, path: Path, asked: dict[str, Any]) -> None:
    """Note what a pass begins with, or refuse to go on with pieces of other kernels.

    ``path`` is the note's; ``folder`` that of the kernels, for messages.

    Raises:
        InputError: the message names what differs.
    """
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
        flat = {**begun.pop("settings"), **begun}
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        write_json(path, asked)
        return
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"'{path}' is damaged ({error}), so '{folder}' cannot be resumed: start again with "
            "--overwrite"
        ) from error
    for name, now in {**asked["settings"], **asked}.items():
        if name == "settings" or flat.get(name) == now:
            continue
        what = _CHANGED.get(name)
        if what is not None:
            raise InputError(
                f"'{folder}' cannot be resumed: {what} changed since its kernels were begun; "
                "restore the old state, or start again with --overwrite"
            )
        raise InputError(
            f"'{folder}' cannot be resumed: its kernels were begun with "
            f"{name.replace('_', '-')} {_shown(flat.get(name))}, now it is {_shown(now)}; give "
            "the same, or start again with --overwrite"
        )


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
