"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The numbers of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("swinkit_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "swinkit_request_seconds", "Head of the request to end of the answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self.refused = Counter("swinkit_refused", "Requests not taken, by error code.", ["code"], registry=registry)
        self.images = Counter("swinkit_images", "Images computed.", ["model"], registry=registry)
        self.batch = Histogram("swinkit_batch_images", "Images per call of the model.", ["model"], buckets=IMAGES, registry=registry)
        self.model = Histogram("swinkit_batch_seconds", "A call of the model.", ["model"], buckets=SECONDS, registry=registry)
        self.queue = Gauge("swinkit_queue_images", "Images taken and not answered.", ["model"], registry=registry)
        self.ready = Gauge("swinkit_ready", "1 when requests are taken.", registry=registry)

    def watch(self, model: str, taken: Callable[[], int]) -> Callable[[int, float], None]:
        """Show a model's queue; what is returned takes note of its batches."""
        self.queue.labels(model).set_function(lambda: float(taken()))
        images, batch, seconds = self.images.labels(model), self.batch.labels(model), self.model.labels(model)

        def seen(count: int, took: float) -> None:
            images.inc(count)
            batch.observe(count)
            seconds.observe(took)

        return seen

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request is done."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
