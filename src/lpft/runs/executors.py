"""Where the runs of a sweep are executed: in this process, in worker processes, or on Ray."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib.util import find_spec
from types import FrameType
from typing import Any, TypeVar

from joblib.externals.loky import ProcessPoolExecutor

from lpft.errors import InputError, named
from lpft.progress import log_to_stderr, quiet_libraries, share_the_machine

Task = TypeVar("Task")
Done = TypeVar("Done")

Executor = Callable[
    [Callable[[Any], Any], Sequence[Any], int], Generator[tuple[int, Any], None, None]
]
"""``execute(function, tasks, workers)`` yields ``(position, function(tasks[position]))`` as tasks
end, ``workers`` of them at a time; None in place of the result of a process that died."""

SECONDS_TO_STOP = 30
"""How long an interrupted task may take to leave its folder in order."""

SECONDS_TO_NOTICE = 1
"""How long it may take until Ctrl-C is noticed."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_idle = threading.Event()  # of a worker: set when a task ends, until the next one begins


def get_executor(name: str, workers: int) -> Executor:
    """The executor of that name.

    Raises:
        InputError: there is none, its package is not installed, or ``workers`` is below 1.
    """
    if name not in EXECUTORS:
        raise InputError(
            f"{named('executor')} {name} is unknown: expected one of {', '.join(EXECUTORS)}"
        )
    if workers < 1:
        raise InputError(f"{named('workers')} {workers} must be at least 1")
    if name == "ray" and find_spec("ray") is None:
        raise InputError(
            f"{named('executor')} ray needs the 'ray' extra, which is not installed: run "
            "pip install 'lpft[ray]', or leave it out to run on this machine"
        )
    return EXECUTORS[name]


def run_local(
    function: Callable[[Task], Done], tasks: Sequence[Task], workers: int
) -> Generator[tuple[int, Done | None], None, None]:
    """One task after the other in this process, or several at a time in processes beside it.

    Each of several workers gets an equal share of the cores for its threads, and is an executor of
    its own: one that dies, as it does where memory runs out, takes no other task with it. When this
    process is interrupted or dies, its workers interrupt their tasks and end.
    """
    if workers == 1:
        for position, task in enumerate(tasks):
            yield position, function(task)
        return
    threads = max(1, available_cores() // workers)
    waiting = iter(enumerate(tasks))
    idle = [_start_worker(threads) for _ in range(min(workers, len(tasks)))]
    running: dict[Future, tuple[int, ProcessPoolExecutor]] = {}
    try:
        while True:
            while idle and (following := next(waiting, None)) is not None:
                position, task = following
                worker = idle[-1]  # until its task is known as running: Ctrl-C may come in between
                running[worker.submit(_call, function, task)] = position, worker
                idle.pop()
            if not running:
                return
            # Some libraries (polars) handle SIGINT so that a wait without an end goes on after it.
            ended, _ = wait(running, SECONDS_TO_NOTICE, FIRST_COMPLETED)
            for future in ended:
                position, worker = running.pop(future)
                died = isinstance(future.exception(), BrokenProcessPool)
                if died:
                    worker.shutdown(kill_workers=True)
                    worker = _start_worker(threads)
                idle.append(worker)
                yield position, None if died else future.result()
    finally:
        _stop(running, idle)


def run_on_ray(
    function: Callable[[Task], Done], tasks: Sequence[Task], workers: int
) -> Generator[tuple[int, Done | None], None, None]:
    """Tasks on a Ray cluster: the one that ``RAY_ADDRESS`` names, or one on this machine.

    Each task gets an equal share of the cluster's cores and GPUs. Paths must mean the same on all
    its machines, so folders lie on a disk that they share.
    """
    import ray

    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, logging_level="ERROR")
    remote = ray.remote(max_retries=0, **_resources_per_task(ray, workers))(function)
    waiting = iter(enumerate(tasks))
    running: dict[Any, int] = {}
    try:
        while True:
            while len(running) < workers and (following := next(waiting, None)) is not None:
                running[remote.remote(following[1])] = following[0]
            if not running:
                return
            (reference, *_), _ = ray.wait(list(running))
            position = running.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                cause = " ".join(str(error.cause).split())[:200]
                raise InputError(
                    f"Ray cannot run the tasks ({cause}): install the same lpft on all its machines"
                ) from error
            except ray.exceptions.RayError:
                result = None
            yield position, result
    finally:
        for reference in running:
            ray.cancel(reference)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=SECONDS_TO_STOP)
        if ours:
            ray.shutdown()


EXECUTORS: dict[str, Executor] = {"local": run_local, "ray": run_on_ray}
"""Every executor by the name that ``lpft sweep --executor`` takes."""


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    count = os.cpu_count()
    return 1 if count is None else count


def _start_worker(threads: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        max_workers=1,
        env=dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        initializer=_prepare_worker,
        initargs=(os.getpid(),),
    )


def _stop(
    running: dict[Future, tuple[int, ProcessPoolExecutor]], idle: Sequence[ProcessPoolExecutor]
) -> None:
    """Interrupt the tasks that run, wait for them, and end all workers."""
    busy = [worker for _, worker in running.values()]
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


def _resources_per_task(ray: Any, workers: int) -> dict[str, float]:
    """Each task's share of the cluster's cores and GPUs, at most those of its largest machine."""
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]

    def share(kind: str) -> float:
        counts = [machine.get(kind, 0) for machine in machines]
        return min(sum(counts) / workers, max(counts))

    gpus = share("GPU")
    return {"num_cpus": max(1, int(share("CPU"))), "num_gpus": gpus if gpus < 1 else int(gpus)}
