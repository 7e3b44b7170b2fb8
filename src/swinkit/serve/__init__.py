"""HTTP over `Predictor`: `swinkit serve MODEL`, one process, any number of models.

    swinkit serve runs/my-run                          # http://127.0.0.1:8000
    curl -F file=@photo.jpg http://127.0.0.1:8000/predict
    curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg 'http://127.0.0.1:8000/predict?top_k=3'

Routes
    POST /predict?model=NAME&top_k=5    images -> guesses. The body is a form with files in the field "file", one image as it is (image/*,
                                        application/octet-stream), or JSON {"images": ["<base64>", ...]}.
    POST /embed?model=NAME              the same images -> pooled features, as `swinkit embed` gives them; not from exported files (501)
    POST /explain?model=NAME&label=     one image -> a PNG of what speaks for a class; not from exported files (501)
    GET  /models /health /ready /metrics /openapi.json /docs, and the page at /

Every answer that is no result is {"error": {"code", "message", "request_id"}}: 400 no image, 401 token, 403 a page of another site,
404 model, label or route, 405 method, 408 slow body, 413 too many bytes, pixels or images, 415 type of body, 422 parameters, 500 the
server, 501 cannot do that, 503 with Retry-After when overloaded or stopping, 504 too slow. X-Request-ID is on every answer, and the
client's own where it is sane.

How it works
    The event loop reads bodies (`bodies`), a few threads decode them (`pictures`), one thread per model computes batches (`batching`).
    A place in the model's queue is taken before an image is decoded, so that what is in flight is bounded in images as well as in bytes,
    and a full queue says 503 at once, as does one that the model would need too long for. A batch takes what is there; it waits,
    `max_wait_ms` at most, only for images that are being decoded. Images of clients that left or ran out of time are not computed. One
    image alone has exactly Predictor's numbers; in a batch they differ as they do between batch sizes of `Predictor`, in the last digits.

Limits (`Settings` has all, with their defaults)
    Formats: PNG, JPEG, WebP, GIF (first frame), BMP. The header is looked at before pixels are decoded. EXIF rotation is applied, no
    metadata is given out, no path or URL of a client is ever opened, file names are only repeated, without folders and control characters.
    No CORS headers; without a token, pages of other sites and foreign host names are refused (`sites`). The server listens on 127.0.0.1
    unless told otherwise. SIGTERM and Ctrl-C: /ready and new requests get 503, what was taken is answered within `grace_s`,
    then the process ends with 0 after SIGTERM, 130 after Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swinkit._verbs import callable_module
from swinkit.serve.settings import Settings as Settings

if TYPE_CHECKING:
    from swinkit.serve.app import create_app as create_app

Say = Callable[[str], None]
"""Called with a sentence for the person who started the server."""


def serve(
    *models: str | Path,
    names: Sequence[str] | None = None,
    settings: Settings | None = None,
    device: str = "auto",
    amp: bool | None = False,
    say: Say | None = None,
) -> None:
    """Serve models over HTTP until SIGTERM (returns) or Ctrl-C (KeyboardInterrupt).

    models: what `Predictor` opens. names: what clients call them, one each; by default the names of their files or folders, and the first
    is the default. device, amp: as of `Predictor`; say: called with a sentence at each step.
    Errors: those of Predictor; ConfigError for names, settings and missing packages; ServeError for an address that cannot be listened
    on, or a model that does not compute.
    """
    from swinkit.runtimes.artefacts import need

    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        need(package, "serve", "swinkit serve")
    from swinkit.serve.starting import start

    start(models, names, settings or Settings(), device, amp, say or (lambda _: None))


def __getattr__(name: str) -> object:
    if name == "create_app":
        from swinkit.serve.app import create_app

        return create_app
    raise AttributeError(f"module 'swinkit.serve' has no attribute {name!r}")


callable_module(__name__)
