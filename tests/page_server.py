"""A server for tests of the page: it speaks the API of `swinkit serve` and answers what a test tells it to."""

import secrets
import threading
import time
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI, Request, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse, Response

from swinkit.serve.page import page

HOSTILE = '<img src=x onerror="document.title=1">'
MODELS = [
    {"name": "clothes", "about": "swin_pico, float32", "classes": 10, "img_size": [28, 28], "explains": True, "embeds": True},
    {"name": HOSTILE, "about": f"</script>{HOSTILE}{{{{nonce}}}}", "classes": 3, "img_size": [32, 32], "explains": False, "embeds": False},
]
GUESSES = {"Ankle boot": 0.9321, HOSTILE: 0.04, "Sneaker": 0.02, "Bag": 0.005, "Shirt": 0.0001}
POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass
class Told:
    """What the server does, and what it was asked."""

    models: list = field(default_factory=lambda: MODELS)
    refusals: list = field(default_factory=list)  # (status, headers) of the next answers
    token: str = ""
    gate: threading.Event = field(default_factory=threading.Event)  # what is asked waits until it is set
    names: list = field(default_factory=list)
    asked: list = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def __post_init__(self):
        self.gate.set()


def make_app(told):
    app = FastAPI(openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, go_on):
        if request.url.path != "/" and told.token and request.headers.get("authorization") != f"Bearer {told.token}":
            return refusal(401, "This server asks for a token.")
        return await go_on(request)

    @app.get("/")
    def home():
        nonce = secrets.token_urlsafe(16)
        text = page([] if told.token else told.models).replace("{{nonce}}", nonce)
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY.format(nonce)})

    @app.get("/models")
    def models():
        return {"models": told.models}

    @app.post("/predict")
    def predict(file: UploadFile, model: str, top_k: int = 5):
        told.at_once += 1
        told.most_at_once = max(told.most_at_once, told.at_once)
        told.gate.wait(10)
        told.at_once -= 1
        told.names.append(file.filename)
        told.asked.append(model)
        if told.refusals:
            return refusal(*told.refusals.pop(0))
        if file.file.read(4) != b"\x89PNG":
            return refusal(400, f"{file.filename} is not an image that is read here.")
        return answer(model, file.filename, top_k)

    @app.post("/explain")
    def explain(file: UploadFile, model: str, label: str):
        told.asked.append(label)
        return Response(file.file.read(), media_type="image/png")

    return app


def answer(model, name, top_k):
    guesses = [{"label": label, "index": i, "probability": p} for i, (label, p) in enumerate(list(GUESSES.items())[:top_k])]
    timing = {"decode": 1.25, "queue": 2.0, "model": 20.4, "total": 24.1}
    return {"model": model, "request_id": "abc", "results": [{"name": name, "predictions": guesses}], "timing_ms": timing}


def refusal(status, message, headers=None):
    body = {"error": {"code": f"E{status}", "message": message, "request_id": "req-7"}}
    return JSONResponse(body, status, headers=headers)


class Running:
    """An application on a free port of this machine, in a thread."""

    def __init__(self, app):
        self.server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="on", ws="none"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/"

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(10)
