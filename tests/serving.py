"""Servers for tests: a real one in a thread, models that do as they are told, and pictures."""

import io
import threading
import time
from contextlib import closing, contextmanager

import httpx
import numpy as np
import torch
from PIL import Image

import swinkit
from small_models import small
from swinkit.data import Preprocess, eval_transform, read_image
from swinkit.serve import Settings
from swinkit.serve.starting import bind, server_for

PREPROCESS = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
LABELS = ("ant", "bee", "cat", "dog", "elk")


class Told:
    """In place of a Predictor: logits that grow with an image's red, behind a gate, as slow or broken as the test wants."""

    source = "told.onnx"
    classes = LABELS
    preprocess = PREPROCESS
    about = "a test"

    def __init__(self, seconds=0.0, error=None, shut=False):
        self.seconds, self.error = seconds, error
        self.runtime = self
        self.batches = []
        self.gate, self.entered = threading.Event(), threading.Event()
        if not shut:
            self.gate.set()

    def prepare(self, picture):
        return eval_transform(self.preprocess)(read_image(picture))

    def run(self, images):
        blank = not images.any()
        if not blank:
            self.batches.append(len(images))
            self.entered.set()
            assert self.gate.wait(30)
            time.sleep(self.seconds)
            if self.error:
                raise self.error
        return images[:, :1].mean((2, 3)) * torch.arange(5.0)


@contextmanager
def running(predictors, **settings):
    """A client of a server in a thread, and the server."""
    settings = Settings(**{"port": 0, "access_log": False, "decoders": 2, "grace_s": 5} | settings)
    named = predictors if isinstance(predictors, dict) else {"m": predictors}
    with closing(bind(settings)) as listener:
        server = server_for(named, settings, lambda _: None)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
                wait_for(lambda: server.service.ready or server.service.problem)
                yield client, server
        finally:
            server.handle_exit(15, None)
            thread.join(20)
            assert not thread.is_alive()


def wait_for(condition, seconds=30):
    """Until it is true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def small_predictor(folder):
    """A real Predictor over random weights."""
    torch.manual_seed(0)
    model = small()
    model.labels = LABELS
    model.preprocess = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
    swinkit.save_pretrained(model, folder)
    return swinkit.Predictor(folder)


def picture(seed=0, size=(40, 36), mode="RGB", kind="PNG", **options):
    """A noisy image as a file's bytes."""
    pixels = np.random.RandomState(seed).randint(1, 255, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def forms(*contents, name="p.png"):
    """Files for httpx."""
    return [("file", (name, content, "image/png")) for content in contents]


def in_threads(function, count):
    """The results of calling it with 0 to count - 1, all at once."""
    results = [None] * count

    def call(number):
        results[number] = function(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


def problem(answer):
    """(status, code) of an answer that is no result, whose shape is checked."""
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"code", "message", "request_id"}
    assert error["request_id"] == answer.headers["x-request-id"]
    assert error["message"].endswith(".")
    return answer.status_code, error["code"]
