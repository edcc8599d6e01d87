"""Where the runs of a sweep are executed: in this process, in processes beside it, or on Ray."""

import multiprocessing
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, TypeVar

from lpft.errors import InputError
from lpft.runs.worker import SECONDS_TO_STOP, do_task, prepare_worker

Task = TypeVar("Task")
Done = TypeVar("Done")

Executor = Callable[
    [Callable[[Any], Any], Sequence[Any], int], Generator[tuple[int, Any], None, None]
]
"""``execute(work, tasks, workers)`` yields ``(place, work(tasks[place]))`` in the order in which
they end, ``workers`` of them at a time; None in place of a result whose process died."""


def get_executor(name: str, workers: int) -> Executor:
    """The executor of that name.

    Raises:
        InputError: there is none, its package is not installed, or ``workers`` is below 1.
    """
    if name not in EXECUTORS:
        raise InputError(f"--executor {name} is unknown: expected one of {', '.join(EXECUTORS)}")
    if workers < 1:
        raise InputError(f"--workers {workers} must be at least 1")
    if name == "ray" and find_spec("ray") is None:
        raise InputError(
            "--executor ray needs the 'ray' extra, which is not installed: run "
            "pip install 'lpft[ray]', or leave it out to run on this machine"
        )
    return EXECUTORS[name]


def run_local(
    work: Callable[[Task], Done], tasks: Sequence[Task], workers: int
) -> Generator[tuple[int, Done | None], None, None]:
    """One task after the other in this process, or several at a time in processes beside it.

    Each of several workers gets an equal share of the cores for its threads. A worker that dies
    takes its own task with it and is replaced. When this process is interrupted or dies, so are
    its workers.
    """
    if workers == 1:
        for place, task in enumerate(tasks):
            yield place, work(task)
        return
    threads = max(1, available_cores() // workers)
    waiting = iter(enumerate(tasks))
    slots = [_Slot(threads) for _ in range(min(workers, len(tasks)))]
    going: dict[Future, tuple[int, _Slot]] = {}
    try:
        for slot, (place, task) in zip(slots, waiting, strict=False):
            going[slot.submit(work, task)] = place, slot
        while going:
            ended, _ = wait(going, return_when=FIRST_COMPLETED)
            for future in ended:
                place, slot = going.pop(future)
                died = isinstance(future.exception(), BrokenProcessPool)
                if died:
                    slot.replace()
                following = next(waiting, None)
                if following is not None:
                    going[slot.submit(work, following[1])] = following[0], slot
                yield place, None if died else future.result()
    finally:
        for slot in slots:
            slot.release()
        for slot in slots:
            slot.join()


def run_on_ray(
    work: Callable[[Task], Done], tasks: Sequence[Task], workers: int
) -> Generator[tuple[int, Done | None], None, None]:
    """Tasks of a Ray cluster: the one that ``RAY_ADDRESS`` names, or one on this machine.

    Each task is given an equal share of the cluster's cores and GPUs. A path must mean the same on
    all its machines, so folders lie on a disk that they share.
    """
    import ray

    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, logging_level="ERROR")
    remote = ray.remote(max_retries=0, **_share(ray, workers))(work)
    waiting = iter(enumerate(tasks))
    going: dict[Any, int] = {}
    try:
        for _, (place, task) in zip(range(workers), waiting, strict=False):
            going[remote.remote(task)] = place
        while going:
            (reference, *_), _ = ray.wait(list(going))
            place = going.pop(reference)
            following = next(waiting, None)
            if following is not None:
                going[remote.remote(following[1])] = following[0]
            try:
                result = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                cause = " ".join(str(error.cause).split())[:200]
                raise InputError(
                    f"Ray cannot run the tasks ({cause}): install the same lpft on all its machines"
                ) from error
            except ray.exceptions.RayError:
                result = None
            yield place, result
    finally:
        for reference in going:
            ray.cancel(reference)
        if going:
            ray.wait(list(going), num_returns=len(going), timeout=SECONDS_TO_STOP)
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


class _Slot:
    """A process of one worker: one that dies must not take the tasks of others with it."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        receiver, self._leash = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=context,
            initializer=prepare_worker,
            initargs=(receiver, self._threads),
        )

    def submit(self, work: Callable[[Task], Done], task: Task) -> Future:
        return self._pool.submit(do_task, work, task)

    def replace(self) -> None:
        """Start another process in place of one that died."""
        self.release()
        self.join()
        self._start()

    def release(self) -> None:
        """Interrupt the process if it is at work."""
        with suppress(OSError):
            self._leash.send("stop")

    def join(self) -> None:
        """Wait until the process has ended."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._leash.close()


def _share(ray: Any, workers: int) -> dict[str, float]:
    """What of a cluster's cores and GPUs each task gets, at most those of its largest machine."""
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]

    def share(kind: str) -> float:
        counts = [machine.get(kind, 0) for machine in machines]
        return min(sum(counts) / workers, max(counts))

    gpus = share("GPU")
    return {"num_cpus": max(1, int(share("CPU"))), "num_gpus": gpus if gpus < 1 else int(gpus)}
