"""Requests computed together: batches, their order and size, errors, a full queue, cancellation."""

import asyncio
import threading

import pytest

from lpft.serve.batching import Batcher, QueueFull

HOUR = 3600.0


class Model:
    """A stand-in that notes its batches and threads; it may be held, and fails for ``bad``."""

    def __init__(self):
        self.batches, self.threads = [], set()
        self.free = threading.Event()
        self.free.set()
        self.busy = threading.Event()

    def __call__(self, texts):
        self.batches.append(list(texts))
        self.threads.add(threading.get_ident())
        self.busy.set()
        self.free.wait()
        if "bad" in texts:
            raise ValueError("bad")
        return [{"label": text.upper()} for text in texts]


async def asked(batcher, *requests):
    """Requests in this order, all of them queued."""
    tasks = [asyncio.ensure_future(batcher.predict(list(texts))) for texts in requests]
    await asyncio.sleep(0)
    return tasks


async def hold(model, batcher):
    """A request that keeps the model busy until ``model.free`` is set."""
    model.free.clear()
    (first,) = await asked(batcher, ["first"])
    await asyncio.to_thread(model.busy.wait)
    return first


def labels(predictions):
    return [one["label"] for one in predictions]


def test_what_arrives_while_the_model_is_busy_is_computed_together():
    async def main():
        model = Model()
        batcher = Batcher(model, most=4, wait=0.0, queue=100)
        async with batcher.running():
            first = await hold(model, batcher)
            tasks = await asked(batcher, ["a"], ["b", "c"], ["d", "e"], ["f"] * 6, ["g"])
            model.free.set()
            answers = [labels(one) for one in await asyncio.gather(first, *tasks)]
        assert answers == [["FIRST"], ["A"], ["B", "C"], ["D", "E"], ["F"] * 6, ["G"]]
        # at most four texts, no request split, and the longer one by itself
        assert model.batches == [["first"], ["a", "b", "c"], ["d", "e"], ["f"] * 6, ["g"]]
        assert len(model.threads - {threading.get_ident()}) == len(model.threads) == 1

    asyncio.run(main())


def test_an_idle_model_waits_for_others_until_a_batch_is_full():
    async def main():
        model = Model()
        batcher = Batcher(model, most=3, wait=HOUR, queue=100)
        async with batcher.running():
            first, second = await asked(batcher, ["a"], ["b"])
            await asyncio.sleep(0.05)
            assert not model.batches
            await asyncio.gather(first, second, *await asked(batcher, ["c"]))
        assert model.batches == [["a", "b", "c"]]

    asyncio.run(main())


def test_a_request_that_has_waited_long_enough_is_computed_alone():
    async def main():
        model = Model()
        async with (batcher := Batcher(model, most=99, wait=0.01, queue=100)).running():
            assert labels(await batcher.predict(["a"])) == ["A"]
            assert labels(await batcher.predict(["b"])) == ["B"]

    asyncio.run(main())


def test_an_error_is_the_request_s_own():
    async def main():
        model = Model()
        batcher = Batcher(model, most=9, wait=0.0, queue=100)
        async with batcher.running():
            first = await hold(model, batcher)
            tasks = await asked(batcher, ["a"], ["bad", "b"], ["c"])
            model.free.set()
            await first
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [labels(found[0]), labels(found[2])] == [["A"], ["C"]]
            assert isinstance(found[1], ValueError)
            assert labels(await batcher.predict(["later"])) == ["LATER"]

    asyncio.run(main())


def test_a_full_queue_refuses_and_says_when_to_come_back():
    async def main():
        model = Model()
        batcher = Batcher(model, most=2, wait=0.0, queue=3)
        async with batcher.running():
            first = await hold(model, batcher)
            # the queue is empty now, so even a request larger than it finds room
            waiting = await asked(batcher, ["a"] * 4)
            with pytest.raises(QueueFull) as caught:
                await batcher.predict(["b"])
            assert caught.value.seconds >= 1
            model.free.set()
            answers = await asyncio.gather(first, *waiting)
            assert len(answers[1]) == 4
            assert labels(await batcher.predict(["b"])) == ["B"]

    asyncio.run(main())


def test_a_request_whose_client_has_gone_is_not_computed():
    async def main():
        model = Model()
        batcher = Batcher(model, most=9, wait=0.0, queue=100)
        async with batcher.running():
            first = await hold(model, batcher)
            gone, stays = await asked(batcher, ["gone"], ["stays"])
            gone.cancel()
            await asyncio.sleep(0)
            model.free.set()
            await asyncio.gather(first, stays)
        assert model.batches == [["first"], ["stays"]]

    asyncio.run(main())


def test_a_batch_that_has_begun_ends_with_the_service():
    async def main():
        model = Model()
        batcher = Batcher(model, most=9, wait=0.0, queue=100)
        async with batcher.running():
            await hold(model, batcher)
            threading.Timer(0.05, model.free.set).start()
        return model.threads

    (thread,) = asyncio.run(main())
    assert thread not in {one.ident for one in threading.enumerate()}
