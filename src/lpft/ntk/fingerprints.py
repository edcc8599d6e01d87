"""What a kernel is computed from, so that no piece of another one is ever taken for its own."""

import json
from collections.abc import Collection, Sequence
from hashlib import sha256
from importlib.metadata import version

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from lpft import __version__
from lpft.data.tokens import Tokens
from lpft.model.adapters import adapter_settings
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.inference import encoder_fingerprint
from lpft.ntk.layout import Pair
from lpft.ntk.options import Options
from lpft.ntk.plan import Plan
from lpft.ntk.structure import Structure
from lpft.ntk.sums import Request

_SCHEMA = 3
"""Of the pieces; a number of its own for every change of what they hold or how it is summed."""


def kernel_fingerprints(
    classifier: LinearHeadClassifier,
    tokens: Tokens,
    groups: NDArray[np.int64],
    requests: Sequence[Request],
    plan: Plan,
    options: Options,
    *,
    detailed: Collection[Pair],
) -> dict[str, str]:
    """What pieces on disk must agree in, by the word that an error message uses.

    Args:
        groups: of every text; ``detailed`` the blocks that are split into parts.
    """
    tiling = sha256(str(plan.layout).encode())
    for tile in plan.tiles:
        for _, rows in tile.batches:
            tiling.update(np.asarray([tile.group, *rows]).tobytes())
    heads, wanted = sha256(), sha256()
    for request in requests:
        heads.update(request.name.encode() + request.head.seeds.numpy().tobytes())
        heads.update(request.head.mixing.numpy().tobytes())
        wanted.update(" ".join([request.name, *sorted(request.parameters)]).encode())
    adapters = json.dumps(adapter_settings(classifier.encoder), sort_keys=True)
    return {
        "kernels": f"{options.kernel} {plan.demand.blocks} {tuple(options.granularity)} "
        f"{sorted(detailed)}",
        "methods": options.method,
        "precision": f"{options.dtype} {options.products} {plan.device.type}",
        "weights": f"{encoder_fingerprint(classifier)} {adapters}",
        "texts": f"{tokens.fingerprint()} {sha256(groups.tobytes()).hexdigest()}",
        "heads": heads.hexdigest(),
        "parameters": wanted.hexdigest(),
        "passes": _passes(plan.structure),
        "tiles": tiling.hexdigest(),
        "versions": f"pieces {_SCHEMA} lpft {__version__} torch {torch.__version__} transformers "
        f"{transformers.__version__} peft {version('peft')}",
    }


def _passes(structure: Structure) -> str:
    """How the encoder is passed: what a unit stands for, and what decides how its sums round."""
    chain = structure.chain
    told = [
        structure.batched,
        [(unit.start, unit.stop) for unit in structure.units],
        structure.direct,
        None if chain is None else (chain.names, chain.hidden, chain.extras, chain.tuples),
    ]
    return sha256(repr(told).encode()).hexdigest()
