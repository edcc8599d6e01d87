"""The values that a choice may take, under the name that options, files and code share."""

from typing import Literal

Pooling = Literal["first", "last", "mean"]
Precision = Literal["float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
ClassWeight = Literal["balanced"]
SplitProtocol = Literal["paper", "stratified"]
KernelKind = Literal["sgd", "signgd", "asymmetric"]
LinearMethod = Literal["auto", "materialize", "token_gram", "sandwich"]
Products = Literal["exact", "tf32", "bfloat16"]
Granularity = Literal["layer", "kind"]
Solver = Literal["paper", "klr", "krr", "logistic", "svc", "svr", "lstsq", "asymmetric"]
ExportFormat = Literal["transformers", "onnx"]
