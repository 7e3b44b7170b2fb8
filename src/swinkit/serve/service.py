"""Everything that the routes of one app share, and its way from warming up over ready to stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from swinkit.predict import Predictor
from swinkit.serve.batching import QueueClosedError
from swinkit.serve.bodies import Budget
from swinkit.serve.metrics import Metrics
from swinkit.serve.models import Served
from swinkit.serve.pixels import Pixels
from swinkit.serve.problems import ApiError, stopping
from swinkit.serve.settings import Settings

T = TypeVar("T")


class Service:
    """Models, limits and counters. `problem` is set when a model failed at its warm-up."""

    def __init__(self, predictors: Mapping[str, Predictor], settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.budget = Budget(settings.bytes_in_flight)
        self.pixels = Pixels(settings.max_pixels)
        self._pool = ThreadPoolExecutor(settings.decoders, "swinkit-decode")
        self.models = {name: Served(name, predictor, settings, self.metrics) for name, predictor in predictors.items()}
        self.ready = self.stopped = False
        self.problem: BaseException | None = None
        self.in_flight = 0
        """Requests that are being answered, those that only look aside."""

    async def warm_up(self) -> None:
        """Compute the smallest and the largest batch with every model; ready afterwards."""
        try:
            for model in self.models.values():
                for count in (1, min(self.settings.max_batch, self.settings.queue)):
                    if (blank := model.warm_up(count)) is not None:
                        await asyncio.wrap_future(blank)
        except QueueClosedError:
            return  # told to stop meanwhile
        except Exception as error:
            self.problem = error
            return
        self.ready = True
        self.metrics.ready.set(0 if self.stopped else 1)

    def stop(self) -> None:
        """From now on nothing new is taken."""
        self.stopped = True
        self.metrics.ready.set(0)

    def give_up(self, seconds: float = 0.0) -> None:
        """What is not computed after `seconds` gets 503."""
        self.stop()
        for model in self.models.values():
            model.batcher.close(seconds)

    def close(self) -> None:
        """End the threads; one that computes ends by itself."""
        self.give_up(1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def model(self, name: str | None) -> Served:
        """By name; None: the first. Errors: ApiError (404)."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise ApiError(404, "no_such_model", f"There is no model of that name; there are {', '.join(self.models)}.")
        return self.models[name]

    def check_running(self) -> None:
        """Errors: ApiError (503) while shutting down."""
        if self.stopped:
            raise stopping()

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run something that takes a while beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def each_in_thread(self, function: Callable[..., T], rows: Sequence[Sequence[Any]]) -> list[T]:
        """The same for several; the first error is raised when all are done or dropped."""
        loop = asyncio.get_running_loop()
        futures = [loop.run_in_executor(self._pool, function, *row) for row in rows]
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:
                future.cancel()
