"""Where runs and shares of kernels are computed: in this process, in processes beside it, on Ray.

Nothing here knows what a task is: it is a function, and what the function takes, in a form that
another process can read.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from joblib.externals.loky import ProcessPoolExecutor
from tqdm import tqdm

from lpft.errors import InputError, meant_choice, named, one_line
from lpft.progress import log_to_stderr, quiet_libraries, share_the_machine

Task = TypeVar("Task")
Done = TypeVar("Done")

Executor = Callable[[Callable[[Any], Any], Sequence[Any]], Generator[tuple[int, Any], None, None]]
"""``execute(function, tasks)`` yields ``(position, function(tasks[position]))`` as tasks end; None
in place of the result of a process that died."""

logger = logging.getLogger(__name__)

SECONDS_TO_STOP = 30
"""How long an interrupted task may take to leave its folder in order."""

SECONDS_TO_NOTICE = 1
"""How long it may take to notice Ctrl-C."""

SECONDS_TO_CONNECT = 10
"""How long a cluster's first machine may take to answer."""

SECONDS_TO_LOOK = 20
"""How often the machines of a cluster are looked at while nothing ends."""

MOST_LOSSES = 3
"""Machines that may be lost under one task, before the task counts as the reason."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_idle = threading.Event()  # of a worker: set when a task ends, until the next one begins


def get_executor(
    name: str, workers: int, *, cpus: float | None = None, gpus: float | None = None
) -> Executor:
    """The executor called ``name``, which runs at most ``workers`` tasks at a time.

    Args:
        cpus: of each task (default: an equal share of all that there are).
        gpus: the same; below 1, several tasks have one GPU together (default: an equal share, at
            most one).

    Raises:
        InputError: there is none, its package is not installed, or a number is out of range.
    """
    if name not in EXECUTORS:
        raise InputError(
            f"{named('executor')} {name} is unknown{meant_choice(name, EXECUTORS)}: expected one "
            f"of {', '.join(EXECUTORS)}"
        )
    if workers < 1:
        raise InputError(f"{named('workers')} {workers} must be at least 1")
    if cpus is not None and not 0 < cpus < float("inf"):
        raise InputError(f"{named('cpus_per_run')} {cpus} must be a number above 0")
    if gpus is not None and not (0 <= gpus <= 1 or (gpus > 1 and float(gpus).is_integer())):
        raise InputError(
            f"{named('gpus_per_run')} {gpus} must be a fraction of one GPU, or a whole number"
        )
    if name == "ray" and find_spec("ray") is None:
        raise InputError(
            f"{named('executor')} ray needs the 'ray' extra, which is not installed: run "
            "pip install 'lpft[ray]', or leave it out to run on this machine"
        )
    return partial(EXECUTORS[name], workers=workers, cpus=cpus, gpus=gpus)


def run_local(
    function: Callable[[Task], Done],
    tasks: Sequence[Task],
    workers: int,
    cpus: float | None = None,
    gpus: float | None = None,
) -> Generator[tuple[int, Done | None], None, None]:
    """One task after the other in this process, or several at a time in processes beside it.

    Each of several workers gets its share of the cores for its threads and of the GPUs, and is an
    executor of its own: one that dies, as it does where memory runs out, takes no other task with
    it. When this process is interrupted or dies, its workers interrupt their tasks and end.
    """
    if workers == 1 and cpus is None and gpus is None:
        for position, task in enumerate(tasks):
            yield position, function(task)
        return
    threads = max(1, available_cores() // workers if cpus is None else int(cpus))
    surroundings = [
        dict.fromkeys(_THREAD_VARIABLES, str(threads)) | devices
        for devices in _devices(workers, gpus)
    ]
    waiting = iter(enumerate(tasks))
    idle = [(environment, _start_worker(environment)) for environment in surroundings[: len(tasks)]]
    running: dict[Future, tuple[int, dict[str, str], ProcessPoolExecutor]] = {}
    try:
        while True:
            while idle and (following := next(waiting, None)) is not None:
                position, task = following
                # Idle until its task is known as running: Ctrl-C may come in between.
                environment, worker = idle[-1]
                running[worker.submit(_call, function, task)] = position, environment, worker
                idle.pop()
            if not running:
                return
            # Some libraries (polars) handle SIGINT so that a wait without an end goes on after it.
            ended, _ = wait(running, SECONDS_TO_NOTICE, FIRST_COMPLETED)
            for future in ended:
                position, environment, worker = running.pop(future)
                died = isinstance(future.exception(), BrokenProcessPool)
                if died:
                    worker.shutdown(kill_workers=True)
                    worker = _start_worker(environment)
                idle.append((environment, worker))
                yield position, None if died else future.result()
    finally:
        _stop([worker for _, _, worker in running.values()], running, [w for _, w in idle])


def run_on_ray(
    function: Callable[[Task], Done],
    tasks: Sequence[Task],
    workers: int,
    cpus: float | None = None,
    gpus: float | None = None,
) -> Generator[tuple[int, Done | None], None, None]:
    """Tasks on a Ray cluster: the one that ``RAY_ADDRESS`` names, or one on this machine.

    Each task gets its share of the cluster's cores and GPUs. Paths must mean the same on all its
    machines, so folders lie on a disk that they share. A task whose machine is lost is done again
    on another one; one whose process dies on a machine that lives, as where memory runs out, is
    not: it would die again.
    """
    # As the libraries of models: nothing is sent to anybody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    with _connected(ray):
        yield from _on_cluster(ray, function, tasks, workers, _resources(ray, workers, cpus, gpus))


EXECUTORS: dict[str, Callable[..., Generator[tuple[int, Any], None, None]]] = {
    "local": run_local,
    "ray": run_on_ray,
}
"""Every executor by the name that ``--executor`` takes."""


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Within this context there is a cluster, and Ray prints nothing.

    It would print what its machines log to standard output, where results go.
    """
    from ray._private import worker

    printed = getattr(worker, "_worker_logs_enabled", True)
    ours = not ray.is_initialized()
    try:
        worker._worker_logs_enabled = False
        if ours:
            _reach(os.environ.get("RAY_ADDRESS", ""))
            ray.init(log_to_driver=False, logging_level="CRITICAL")
    except (OSError, RuntimeError, ValueError) as error:
        worker._worker_logs_enabled = printed
        raise InputError(
            f"there is no Ray cluster to connect to ({one_line(error)}): start one with ray start "
            "--head and name it by RAY_ADDRESS, or unset that to use this machine alone"
        ) from error
    try:
        yield
    finally:
        if ours:
            ray.shutdown()
        worker._worker_logs_enabled = printed


def _from_here(function: Callable[[Task], Done]) -> Callable[[Task], Done]:
    """The function in the working folder of this process, by which relative paths are meant."""
    here = Path.cwd()

    def called(task: Task) -> Done:
        with suppress(OSError):  # a machine without it reads absolute paths alone
            os.chdir(here)
        return function(task)

    return called


def _reach(address: str) -> None:
    """See that somebody listens at ``host:port``: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), SECONDS_TO_CONNECT).close()


def _on_cluster(
    ray: Any,
    function: Callable[[Task], Done],
    tasks: Sequence[Task],
    workers: int,
    resources: dict[str, float],
) -> Generator[tuple[int, Done | None], None, None]:
    running: dict[Any, int] = {}
    losses: Counter[int] = Counter()
    waiting = deque(enumerate(tasks))
    _check_machines(ray, resources)
    # Ray would try again whatever died; which of it is worth a try is decided below.
    remote = ray.remote(max_retries=0, **resources)(_from_here(function))
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                position, task = waiting.popleft()
                running[remote.remote(task)] = position
            ended, _ = ray.wait(list(running), timeout=SECONDS_TO_LOOK)
            if not ended:
                _check_machines(ray, resources)
                continue
            position = running.pop(ended[0])
            try:
                result = ray.get(ended[0])
            except ray.exceptions.RayTaskError as error:
                raise InputError(
                    f"Ray cannot run the tasks ({one_line(error.cause)}): install the same lpft on "
                    "all its machines"
                ) from error
            except ray.exceptions.NodeDiedError:
                losses[position] += 1
                if losses[position] < MOST_LOSSES:
                    logger.warning("a machine of the Ray cluster was lost: its task starts again")
                    waiting.appendleft((position, tasks[position]))
                    continue
                result = None
            except ray.exceptions.RayError:
                result = None
            yield position, result
    finally:
        for reference in running:
            ray.cancel(reference)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=SECONDS_TO_STOP)


def visible_gpus() -> list[str]:
    """The GPUs of this process as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    available = list(map(str, range(count))) if names is None else names.split(",")
    return [name.strip() for name in available[:count]]


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    count = os.cpu_count()
    return 1 if count is None else count


def _devices(workers: int, gpus: float | None) -> list[dict[str, str]]:
    """What tells each worker the GPUs that it may use; nothing where there are none.

    Raises:
        InputError: there are not as many as are asked for.
    """
    names = visible_gpus()
    if not names and not gpus:
        return [{} for _ in range(workers)]
    share = min(1.0, len(names) / workers) if gpus is None else gpus
    # With a share below 1 the workers take turns on the GPUs, as many on each as it can hold.
    gpus_each, workers_each = max(1, int(share)), int(1 / share + 1e-9) if 0 < share < 1 else 1
    slots = len(names) // gpus_each * workers_each
    if gpus is not None and gpus > 0 and slots < workers:
        raise InputError(
            f"{named('workers')} {workers} with {named('gpus_per_run')} {gpus:g} need more GPUs "
            f"than the {len(names)} of this machine: lower one of them"
        )
    if share == 0:
        return [{"CUDA_VISIBLE_DEVICES": ""} for _ in range(workers)]
    groups = [names[first : first + gpus_each] for first in range(0, len(names), gpus_each)]
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(groups[worker % len(groups)])}
        for worker in range(workers)
    ]


def _start_worker(environment: dict[str, str]) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        max_workers=1,
        env=environment,
        initializer=_prepare_worker,
        initargs=(os.getpid(),),
    )


def _stop(
    busy: Sequence[ProcessPoolExecutor],
    running: Iterable[Future],
    idle: Sequence[ProcessPoolExecutor],
) -> None:
    """Interrupt the tasks that run, wait for them, and end all workers."""
    for worker in busy:
        for process in list(worker._processes):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGINT)
    wait(running, timeout=SECONDS_TO_STOP)
    for worker in (*idle, *busy):
        worker.shutdown(kill_workers=True)


def _prepare_worker(parent: int) -> None:
    """Set up a new process, which prints only warnings and ends with its parent."""
    share_the_machine()
    quiet_libraries()
    log_to_stderr(logging.WARNING)
    # Of threads: tqdm's own lock of processes would be reported as leaked where a worker is ended.
    tqdm.set_lock(threading.RLock())
    signal.signal(signal.SIGINT, _interrupt_once)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _call(function: Callable[[Task], Done], task: Task) -> Done:
    _idle.clear()
    try:
        return function(task)
    finally:
        _idle.set()


def _interrupt_once(signal_number: int, frame: FrameType | None) -> None:
    """Ctrl-C reaches a worker from the terminal and from its parent; once is enough."""
    del signal_number, frame
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with(parent: int) -> None:
    """Interrupt the task and end this process once its parent is gone."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)
    _idle.wait(SECONDS_TO_STOP)
    os._exit(1)


def _resources(ray: Any, workers: int, cpus: float | None, gpus: float | None) -> dict[str, float]:
    """Each task's share of the cluster's cores and GPUs, at most those of its largest machine."""

    machines = _machines(ray)
    if cpus is None:
        counts = [machine.get("CPU", 0) for machine in machines]
        cpus = max(1, int(min(sum(counts) / workers, max(counts, default=0))))
    if gpus is None:
        count = int(sum(machine.get("GPU", 0) for machine in machines))
        gpus = 1 / -(-workers // count) if count else 0
    return {"num_cpus": cpus, "num_gpus": gpus}


def _machines(ray: Any) -> list[dict[str, float]]:
    """What each machine of the cluster has."""
    return [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]


def _check_machines(ray: Any, resources: dict[str, float]) -> None:
    """Refuse to wait for a machine that the cluster does not have, or has lost.

    Raises:
        InputError: no machine is large enough for a task.
    """
    cpus, gpus = resources["num_cpus"], resources["num_gpus"]
    if not any(m.get("CPU", 0) >= cpus and m.get("GPU", 0) >= gpus for m in _machines(ray)):
        raise InputError(
            f"no machine of the Ray cluster has the {cpus:g} CPUs and {gpus:g} GPUs of a task: add "
            f"machines, or give fewer with {named('cpus_per_run')} and {named('gpus_per_run')}; "
            f"{named('resume=True')} goes on with what was begun"
        )
