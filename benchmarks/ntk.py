"""The empirical NTK engine against its alternatives, one after the other, on random weights.

Ours computes the whole kernel of N texts. The alternatives' cost per text is the measured one of a
few texts' Jacobians, and the product over all of them that of some columns of it, times the columns
that there are; so they are spared what bounding their memory would cost. The reference's algorithm
is timed on one text and the attention groups of the first and the last layer, as published (the
Jacobian of all 768 features at once, 15 GB) and in chunks that suit a CPU; the other groups are
taken to cost the mean of the two. The alternatives too compute half of their symmetric product.
"model" flops are those of docs/ntk.md: one forward pass, a backward pass for each row of the head,
J, and the symmetric product once; recomputation is not counted.

    python benchmarks/ntk.py full-rank | binary-lp | memory | planning | cuda [--samples 250]
        [--shapes minilm roberta]

The reference as published is left out where less than 20 GB of memory are free, and without
``roberta`` altogether.

Each of our kernels is computed in a process of its own (``child``), for its peak memory; the
alternatives follow it at once, and the block of its first two texts is compared with theirs.
``planning`` times the plans and refusals of up to 100,000 texts, none of which is computed.
``cuda`` computes RoBERTa-base's kernel, and one of the shape of RTE's training set, on the card.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import torch
from common import matmul_rate, peak_bytes, record, seconds
from ntk_baselines import (
    contract,
    grad_loop_jacobian,
    jacrev_jacobian,
    parameter_groups,
    reference_algorithm,
)
from transformers import BertConfig, RobertaConfig

from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.model import LinearHeadClassifier
from lpft.model.classifier import attach_head
from lpft.model.encoder import build_encoder
from lpft.ntk import KernelJob, Options, StudiedModel, request_of
from lpft.ntk.memory import make_plan
from lpft.ntk.result import EmpiricalNTK

ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
SHAPES = {
    "tiny": BertConfig(
        vocab_size=500,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    ),
    "roberta": RobertaConfig(**ROBERTA),
    "minilm": BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
}
TOKENS = {"tiny": 64, "roberta": 128, "minilm": 64}
RTE_ROWS = 2241
COMPARED = 2
"""Texts whose block of our kernel is compared with that of a loop of ``autograd.grad``."""
JACOBIANS = 6
PRODUCT_COLUMNS = 65536
REFERENCE_CHUNK = 16
REFERENCE_BYTES = 20 * 10**9


def build(shape: str, classes: int, *, centred: bool) -> LinearHeadClassifier:
    """A random encoder with a random head, whose rows sum to zero if ``centred``, as LP's do."""
    torch.manual_seed(0)
    model = attach_head(
        build_encoder(SHAPES[shape], torch.float32),
        tuple("abcdef"[:classes]),
        pooling="first",
        head_bias=True,
        generator=torch.Generator().manual_seed(0),
    )
    if centred:
        with torch.no_grad():
            model.head.weight.sub_(model.head.weight.mean(0))
    return model


def words(shape: str, samples: int) -> Tokens:
    """Texts of full length whose words are as unequally frequent as those of a language."""
    config, length = SHAPES[shape], TOKENS[shape]
    drawn = np.random.default_rng(0).zipf(1.2, size=(samples, length)) % (config.vocab_size - 4) + 4
    drawn[:, 0], drawn[:, -1] = 0, 2
    return Tokens.from_lists(
        {"input_ids": drawn.tolist(), "attention_mask": [[1] * length] * samples},
        {"input_ids": 1, "attention_mask": 0},
        "right",
    )


def ours(
    model: LinearHeadClassifier, tokens: Tokens, memory: str | None, device: torch.device
) -> tuple[EmpiricalNTK, dict[str, Any]]:
    """The kernel of all texts, with its seconds and flops."""
    subject = StudiedModel(model, model.head, None, None)
    started = perf_counter()
    job = KernelJob(
        subject,
        {"ntk": request_of(subject)},
        [tokens],
        ((0, 0),),
        Options(memory=memory, check_entries=0, check_products=0, device=device.type),
    )
    kernel = job.run()["ntk"][0, 0]
    taken = perf_counter() - started
    plan = kernel.record["plan"]
    return kernel, {
        "samples": len(tokens),
        "tokens_per_sample": int(tokens.lengths[0]),
        "head_rank": kernel.record["head_rank"],
        "seconds": round(taken, 2),
        "seconds_per_sample": round(taken / len(tokens), 4),
        "parts": {name: round(value, 2) for name, value in kernel.record["seconds"].items()},
        "model_tflop": round(plan["flops"]["model"] / 1e12, 2),
        "model_gflops": round(plan["flops"]["model"] / taken / 1e9, 1),
        "methods": plan["methods"],
        "tiles": plan["tiles"],
        "between_blocks": plan["between_blocks"],
    }


def alternative(
    write: Callable[..., None], model: LinearHeadClassifier, tokens: Tokens, samples: int
) -> dict[str, Any]:
    """Seconds per text of an alternative for a kernel of ``samples`` texts."""
    parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
    classes = model.head.weight.shape[0]
    out = torch.zeros(classes, parameters)
    times = []
    for text in range(JACOBIANS + 1):
        batch = tokens.batch([text])
        times.append(seconds(partial(write, model, batch, out)))
    jacobian = float(np.median(times[1:]))
    rows = torch.randn(samples, classes, PRODUCT_COLUMNS)
    product = float(np.median([seconds(lambda: contract(rows, rows)) for _ in range(3)]))
    product *= parameters / PRODUCT_COLUMNS
    return {
        "jacobian_seconds_per_sample": round(jacobian, 4),
        "product_seconds_per_sample": round(product / samples, 4),
        "seconds_per_sample": round(jacobian + product / samples, 4),
    }


def relative_difference(
    model: LinearHeadClassifier, tokens: Tokens, block: Sequence[Sequence[Any]]
) -> float:
    """Relative difference of the first texts' block of our F from a loop of ``autograd.grad``."""
    parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
    jacobians = torch.zeros(COMPARED, model.head.weight.shape[0], parameters)
    for text in range(COMPARED):
        grad_loop_jacobian(model, tokens.batch([text]), jacobians[text])
    expected = contract(jacobians, jacobians, columns=2048)
    found = torch.tensor(block, dtype=torch.float64)
    return float((found - expected).norm() / expected.norm())


def child(
    shape: str,
    samples: int,
    classes: int,
    memory: str | None = None,
    *,
    centred: bool,
    device: str = "cpu",
) -> tuple[dict[str, Any], list[Any]]:
    """One kernel in a process of its own: what it took, and the block of its first texts."""
    command = [sys.executable, __file__, "child", "--shape", shape, "--samples", str(samples)]
    command += ["--classes", str(classes), "--device", device]
    command += [] if memory is None else ["--memory", memory]
    command += ["--centred"] if centred else []
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer = json.loads(run.stdout.splitlines()[-1])
    return answer["took"], answer["block"]


def run_child(options: argparse.Namespace) -> None:
    """Compute one kernel and print what it took, with the machine's rate before and after."""
    device = torch.device(options.device)
    model = build(options.shape, options.classes, centred=options.centred)
    tokens = words(options.shape, options.samples)
    before = matmul_rate(device)
    kernel, took = ours(model, tokens, options.memory, device)
    rate = (before + matmul_rate(device)) / 2
    took["peak_memory_gb"] = round(peak_memory(device) / 1e9, 2)
    took["matmul_gflops"] = round(rate, 1)
    took["share_of_matmul_rate"] = round(took["model_gflops"] / rate, 3)
    block = kernel.ft_effective[:COMPARED, :, :COMPARED]
    print(json.dumps({"took": took, "block": block.tolist()}))


def peak_memory(device: torch.device) -> int:
    """Bytes that this process took at most, in the card's memory or the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_bytes()


def against_alternatives(
    shape: str, samples: int, *, classes: int, centred: bool
) -> dict[str, Any]:
    """Ours, in a process of its own, beside both alternatives."""
    mine, block = child(shape, samples, classes, "6GB", centred=centred)
    model, tokens = build(shape, classes, centred=centred), words(shape, samples)
    found: dict[str, Any] = {
        "shape": shape,
        "ours": mine,
        "jacrev": alternative(jacrev_jacobian, model, tokens, samples),
        "grad_loop": alternative(grad_loop_jacobian, model, tokens, samples),
        "relative_difference": relative_difference(model, tokens, block),
        "matmul_gflops": round(matmul_rate(), 1),
    }
    best = min(found[other]["seconds_per_sample"] for other in ("jacrev", "grad_loop"))
    found["times_faster"] = round(best / mine["seconds_per_sample"], 2)
    return found


def rank_two_against_one(samples: int, first: float) -> dict[str, Any]:
    """A head of two independent rows, between two binary LP heads, the ``first`` of them timed."""
    two = child("roberta", samples, 2, "6GB", centred=False)[0]["seconds"]
    one = [first, child("roberta", samples, 2, "6GB", centred=True)[0]["seconds"]]
    return {
        "rank_one_seconds": one,
        "rank_two_seconds": two,
        "times_faster_at_rank_one": round(two / float(np.mean(one)), 2),
    }


def on_the_card(samples: int) -> dict[str, Any]:
    """RoBERTa-base's kernels on CUDA: of three classes, and of RTE's training set with two."""
    if not torch.cuda.is_available():
        raise SystemExit("cuda needs a CUDA device: none is here")
    return {
        "three classes": child("roberta", samples, 3, centred=False, device="cuda")[0],
        "RTE's shape": child("roberta", RTE_ROWS, 2, centred=False, device="cuda")[0],
    }


def against_reference(ours_per_sample: float) -> dict[str, Any]:
    """The reference's algorithm on one text and two groups, extrapolated to all groups."""
    model, tokens = build("roberta", 3, centred=False), words("roberta", 1)
    names = list(parameter_groups(model))
    attention = [name for name in names if "attention" in name]
    found: dict[str, Any] = {"groups": len(names)}
    settings = [("as_published", None), ("in_chunks", REFERENCE_CHUNK)]
    if psutil.virtual_memory().available < REFERENCE_BYTES:
        del settings[0]
    for setting, chunk_size in settings:
        timed = {
            group: seconds(
                partial(reference_algorithm, model, tokens, groups=[group], chunk_size=chunk_size)
            )
            for group in (attention[0], attention[-1])
        }
        whole = float(np.mean(list(timed.values()))) * len(names)
        found[setting] = {
            "features_at_once": model.head.in_features if chunk_size is None else chunk_size,
            "seconds_of_groups": {name: round(value, 1) for name, value in timed.items()},
            "extrapolated_seconds_per_sample": round(whole, 1),
            "times_faster": round(whole / ours_per_sample),
        }
    return found


def planning(texts: Sequence[int] = (1000, 10_000, 100_000)) -> list[dict[str, Any]]:
    """Seconds to plan kernels of texts of 4 to 64 tokens: some fit, some are refused."""
    rows = []
    for shape in ("tiny", "minilm"):
        model = build(shape, 3, centred=False)
        subject = StudiedModel(model, model.head, None, None)
        of_few = KernelJob(
            subject, {"ntk": request_of(subject)}, [words(shape, 4)], ((0, 0),), Options()
        ).plan
        for count in texts:
            lengths = np.random.default_rng(0).integers(4, 65, count)
            workload = replace(of_few.workload, lengths=lengths, groups=np.zeros_like(lengths))
            kernel = 2 * 8 * count**2 * (9 + 9)
            for budget in (4 * 10**9, kernel + 3 * 10**9, 2 * kernel + 10**10):
                started = perf_counter()
                try:
                    plan = make_plan(
                        of_few.structure,
                        workload,
                        device=torch.device("cpu"),
                        dtype=torch.float32,
                        budget=budget,
                        used=10**9,
                        checked=0,
                        copied=0,
                    )
                    record = plan.as_record()
                    outcome = f"{record['tiles']} tiles, {record['stages']} stages"
                except InputError as error:
                    outcome = f"refused: {error}"
                rows.append(
                    {
                        "shape": shape,
                        "texts": count,
                        "memory_gb": round(budget / 1e9, 1),
                        "seconds": round(perf_counter() - started, 3),
                        "outcome": outcome,
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "part", choices=["full-rank", "binary-lp", "memory", "planning", "cuda", "child"]
    )
    parser.add_argument("--samples", type=int, default=250)
    parser.add_argument(
        "--shapes", nargs="+", choices=("minilm", "roberta"), default=["minilm", "roberta"]
    )
    parser.add_argument("--shape", default="roberta", choices=SHAPES, help="of part child")
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--memory")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--centred", action="store_true")
    options = parser.parse_args()
    samples = options.samples
    if options.part == "child":
        run_child(options)
    elif options.part == "full-rank":
        result = {
            shape: against_alternatives(shape, samples, classes=3, centred=False)
            for shape in options.shapes
        }
        if "roberta" in result:
            per_sample = result["roberta"]["ours"]["seconds_per_sample"]
            result["reference"] = against_reference(per_sample)
        record("ntk_full_rank", result)
    elif options.part == "binary-lp":
        result = {
            shape: against_alternatives(shape, samples, classes=2, centred=True)
            for shape in options.shapes
        }
        if "roberta" in result:
            first = result["roberta"]["ours"]["seconds"]
            result["rank"] = rank_two_against_one(samples, first)
        record("ntk_binary_lp", result)
    elif options.part == "planning":
        record("ntk_planning", {"plans": planning()})
    elif options.part == "memory":
        record("ntk_memory", child("roberta", samples, 3, "3GB", centred=False)[0])
    else:
        record("ntk_cuda", on_the_card(samples), torch.device("cuda"))


if __name__ == "__main__":
    torch.set_grad_enabled(True)
    main()
