"""A BERT encoder without embeddings in JAX, and its kernel by neural-tangents.

Run by benchmarks/ntk_neural_tangents.py in neural-tangents' own environment, which needs no lpft:

    python benchmarks/ntk_jax.py ARRAYS.npz KERNEL.npy --heads 12

ARRAYS.npz has the hidden states after the embeddings (N x T x h), the parameters under the names
that Transformers gives them, and the head V (C x h). The kernel is the sum over the encoder's
parameters, as our F. Prints seconds of each repeat after the compiling first call, and peak memory.
"""

import argparse
import json
import resource
from functools import partial
from time import perf_counter, process_time

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np

EPS = 1e-12


def normalised(x, weight, bias):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + EPS) * weight + bias


def linear(x, layer, name):
    return x @ layer[f"{name}.weight"].T + layer[f"{name}.bias"]


def logits(parameters, hidden, *, head, heads):
    """V phi (N x C) of the first token's feature; post-LayerNorm blocks with exact GELU."""
    samples, tokens, width = hidden.shape

    def split(x):
        return x.reshape(samples, tokens, heads, width // heads).transpose(0, 2, 1, 3)

    for layer in parameters:
        query, key, value = (
            split(linear(hidden, layer, f"attention.self.{name}"))
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(width // heads)
        context = (jax.nn.softmax(scores) @ value).transpose(0, 2, 1, 3).reshape(hidden.shape)
        name = "attention.output"
        hidden = normalised(
            linear(context, layer, f"{name}.dense") + hidden,
            layer[f"{name}.LayerNorm.weight"],
            layer[f"{name}.LayerNorm.bias"],
        )
        inner = jax.nn.gelu(linear(hidden, layer, "intermediate.dense"), approximate=False)
        hidden = normalised(
            linear(inner, layer, "output.dense") + hidden,
            layer["output.LayerNorm.weight"],
            layer["output.LayerNorm.bias"],
        )
    return hidden[:, 0] @ head.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arrays")
    parser.add_argument("kernel")
    parser.add_argument("--heads", type=int, required=True)
    parser.add_argument("--implementation", default="STRUCTURED_DERIVATIVES")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    arrays = np.load(options.arrays)
    layers: dict[int, dict[str, jax.Array]] = {}
    for name in arrays.files:
        if name not in ("hidden", "head"):
            number, _, rest = name.partition(".")
            layers.setdefault(int(number), {})[rest] = jnp.asarray(arrays[name])
    parameters = [layers[number] for number in sorted(layers)]
    hidden = jnp.asarray(arrays["hidden"])
    kernel_function = jax.jit(
        nt.empirical_ntk_fn(
            partial(logits, head=jnp.asarray(arrays["head"]), heads=options.heads),
            trace_axes=(),
            vmap_axes=0,
            implementation=nt.NtkImplementation[options.implementation],
        )
    )
    seconds, cpu = [], []
    for _ in range(options.repeats + 1):
        started, started_cpu = perf_counter(), process_time()
        kernel = kernel_function(hidden, None, parameters).block_until_ready()
        seconds.append(perf_counter() - started)
        cpu.append(process_time() - started_cpu)
    # neural-tangents orders axes N x M x C x C.
    np.save(options.kernel, np.asarray(kernel).transpose(0, 2, 1, 3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    answer = {
        "compiling": round(seconds[0], 2),
        "seconds": seconds[1:],
        "cpu": cpu[1:],
        "peak_memory_gb": round(peak, 2),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
