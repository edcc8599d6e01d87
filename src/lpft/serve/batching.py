"""Texts of concurrent requests, computed together by one thread."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import perf_counter

from lpft.data import Text
from lpft.runs.predict import Prediction

Predict = Callable[[list[Text]], list[Prediction]]


class QueueFull(Exception):
    """Too many texts are waiting; they will be done in about ``seconds``."""

    def __init__(self, seconds: int) -> None:
        super().__init__()
        self.seconds = seconds


@dataclass(frozen=True, eq=False)
class _Request:
    texts: list[Text]
    answer: "asyncio.Future[list[Prediction]]"
    arrived: float


class Batcher:
    """Requests in the order of their arrival, in batches of at most ``most`` texts.

    A request is never split: one with more texts than ``most`` is a batch of its own. While the
    model is busy, batches fill by themselves; while it is idle, the first request of a batch
    waits ``wait`` seconds for others. At most ``queue`` texts wait.

    ``predict`` is only ever called by one thread, as tokenizers and models want it.
    """

    def __init__(self, predict: Predict, *, most: int, wait: float, queue: int) -> None:
        self._predict = predict
        self._most, self._wait, self._queue = most, wait, queue
        self._requests: deque[_Request] = deque()
        self._waiting = 0  # texts of the requests above
        self._arrived = asyncio.Event()
        self._seconds_per_text = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within this context requests are computed; its end waits for a batch that has begun."""
        with ThreadPoolExecutor(1, "model") as thread:
            task = asyncio.create_task(self._run(thread))
            try:
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def predict(self, texts: list[Text]) -> list[Prediction]:
        """The predictions of a request's texts, in their order.

        A request that is cancelled gives up its place, unless its batch has begun.

        Raises:
            QueueFull: the texts do not fit into the queue. An empty queue takes any number.
            Exception: that of ``predict`` for these texts alone.
        """
        if self._requests and self._waiting + len(texts) > self._queue:
            raise QueueFull(max(1, math.ceil(self._waiting * self._seconds_per_text)))
        loop = asyncio.get_running_loop()
        request = _Request(texts, loop.create_future(), loop.time())
        self._requests.append(request)
        self._waiting += len(texts)
        self._arrived.set()
        return await request.answer

    async def _run(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._batch_is_due()
            batch = self._next_batch()
            if not batch:
                continue
            texts = [request.texts for request in batch]
            outcomes = await loop.run_in_executor(thread, self._compute, texts)
            for request, outcome in zip(batch, outcomes, strict=True):
                if request.answer.done():  # its client has gone
                    continue
                if isinstance(outcome, Exception):
                    request.answer.set_exception(outcome)
                else:
                    request.answer.set_result(outcome)

    async def _batch_is_due(self) -> None:
        """Wait for a first request, then until a batch is full or that request has waited."""
        while not self._requests:
            self._arrived.clear()
            await self._arrived.wait()
        loop = asyncio.get_running_loop()
        due = self._requests[0].arrived + self._wait
        while self._waiting < self._most and loop.time() < due:
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._arrived.wait()

    def _next_batch(self) -> list[_Request]:
        batch: list[_Request] = []
        texts = 0
        while self._requests:
            request = self._requests[0]
            if batch and texts + len(request.texts) > self._most:
                break
            self._requests.popleft()
            self._waiting -= len(request.texts)
            if not request.answer.cancelled():
                batch.append(request)
                texts += len(request.texts)
        return batch

    def _compute(self, batch: Sequence[list[Text]]) -> list[list[Prediction] | Exception]:
        """The predictions or the error of each request, in the model's thread."""
        started = perf_counter()
        flat = [text for texts in batch for text in texts]
        try:
            predictions = iter(self._predict(flat))
        except Exception as error:
            # What is wrong with one request is not the others' fault: each is computed alone.
            if len(batch) == 1:
                return [error]
            return [outcome for texts in batch for outcome in self._compute([texts])]
        self._seconds_per_text = (perf_counter() - started) / len(flat)
        return [[next(predictions) for _ in texts] for texts in batch]
