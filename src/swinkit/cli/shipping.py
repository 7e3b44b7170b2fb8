"""The verbs that take a model elsewhere. Heavy imports stand inside, so that help is instant."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from swinkit.cli.shared import Amp, Device, Json, Source, app
from swinkit.errors import ConfigError
from swinkit.tasks.text import printable

if TYPE_CHECKING:
    from swinkit.serve import Settings


@app.command
def export(
    source: Source,
    /,
    *,
    to: Annotated[str, Parameter(help="onnx, openvino, torch-export, aoti or executorch.")],
    out: Annotated[str, Parameter(help="The file to write: NAME.onnx, NAME.xml (and NAME.bin), NAME.pt2 or NAME.pte.")],
    dynamic: Annotated[bool, Parameter(negative="--fixed", help="Any height and width; --fixed: one size alone, which is faster.")] = True,
    img_size: Annotated[
        list[int] | None,
        Parameter(
            consume_multiple=True, negative="", help="With --fixed: the size in pixels, SIDE or HEIGHT WIDTH; by default the model's."
        ),
    ] = None,
    batch_size: Annotated[int | None, Parameter(help="Exactly so many images at a time; by default any number.")] = None,
    with_preprocessing: Annotated[
        bool, Parameter(negative="", help="Let the file take 8-bit images (B, height, width, channels) and give probabilities.")
    ] = False,
    dtype: Annotated[str, Parameter(help="float32, or float16 and bfloat16 where the format has them.")] = "float32",
    int8: Annotated[bool, Parameter(negative="", help="Linear layers in 8 bits, of onnx and openvino; needs --calibration.")] = False,
    calibration: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, negative="", help="With --int8: a data set, folder or files like what the model will see."),
    ] = None,
    calibration_images: Annotated[int, Parameter(help="With --int8: how many of them set the ranges.")] = 256,
    max_error: Annotated[
        float, Parameter(help="With --int8: the fewest layers that bring the outputs' error down to this fraction stay in float.")
    ] = 0.02,
    keep_float: Annotated[
        list[str] | None,
        Parameter(
            consume_multiple=True,
            negative="",
            help='With --int8: patterns of the layers that stay in float instead, as "*.fc2"; none: all in 8 bits.',
        ),
    ] = None,
    narrow_weights: Annotated[
        bool, Parameter(negative="", help="With --int8: weights of 7 bits, for x86 processors without VNNI.")
    ] = False,
    evaluate: Annotated[str | None, Parameter(help="With --int8: labelled images for accuracy and speed before and after.")] = None,
    overwrite: Annotated[bool, Parameter(negative="", help="Replace the file.")] = False,
    as_json: Json = False,
) -> int:
    """Write a model as a file of another runtime; it is run there and compared with PyTorch before it gets its name."""
    from swinkit.export import Int8, export

    if img_size is not None and len(img_size) not in (1, 2):
        raise ConfigError(f"--img-size got {len(img_size)} numbers; give SIDE, or HEIGHT WIDTH.")
    if int8 != bool(calibration):
        raise ConfigError("--int8 and --calibration DATA belong together: ranges are set by images like those that the model will see.")
    if not int8 and (evaluate or keep_float or narrow_weights):
        raise ConfigError("--evaluate, --keep-float and --narrow-weights belong to --int8, which is not given; add it, or leave them out.")
    bits = Int8(
        calibration[0] if len(calibration) == 1 else calibration, calibration_images, max_error,
        None if keep_float is None else [pattern for pattern in keep_float if pattern != "none"], narrow_weights, evaluate,
    ) if calibration else None  # fmt: skip
    size = None if img_size is None else (img_size[0], img_size[-1])
    written = export(
        source, to=to, out=out, dynamic=dynamic, img_size=size, batch_size=batch_size, with_preprocessing=with_preprocessing,
        dtype=dtype, int8=bits, overwrite=overwrite, say=_say,
    )  # fmt: skip
    print(json.dumps(written.to_dict()) if as_json else written.table())
    print(f"written  {' '.join(str(file) for file in written.files)}", file=sys.stderr)
    return 0


def _say(line: str) -> None:
    print(f"export: {line}", file=sys.stderr)


@app.command
def serve(
    models: Annotated[list[str], Parameter(help="Run folders, folders or files of weights, or files of `export`; one or more.")],
    /,
    *,
    name: Annotated[
        list[str] | None, Parameter(consume_multiple=True, negative="", help="What clients call each model; by default its file or folder.")
    ] = None,
    host: Annotated[str, Parameter(help="The address to listen on; 0.0.0.0 for every one of this machine.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="The port; 0 for any free one.")] = 8000,
    max_batch: Annotated[int, Parameter(help="The most images computed at a time.")] = 16,
    max_wait_ms: Annotated[float, Parameter(help="How long a batch waits for images that are being decoded.")] = 5.0,
    queue: Annotated[int, Parameter(help="Images of a model that are taken and not answered; beyond that, requests get 503.")] = 128,
    max_images: Annotated[int, Parameter(help="Images per request.")] = 32,
    max_mb: Annotated[float, Parameter(help="The size of a request in MiB.")] = 32.0,
    max_megapixels: Annotated[float, Parameter(help="The size of an image in millions of pixels.")] = 50.0,
    timeout: Annotated[float, Parameter(help="Seconds from the end of a request to its answer.")] = 30.0,
    token_file: Annotated[
        str | None, Parameter(help="A file with the token that clients must send; without it, the variable SWINKIT_TOKEN.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        Parameter(consume_multiple=True, negative="", help="Names of this server besides localhost, for a proxy in front and no token."),
    ] = None,
    access_log: Annotated[bool, Parameter(help="One line per request on stderr.")] = True,
    device: Device = "auto",
    amp: Amp = False,
    ray: Annotated[bool, Parameter(negative="", help="As a Ray Serve deployment: several processes, on one machine or a cluster.")] = False,
    replicas: Annotated[int | None, Parameter(help="With --ray: how many processes; with --max-replicas the least.")] = None,
    max_replicas: Annotated[int | None, Parameter(help="With --ray: the most processes; Ray follows the load.")] = None,
) -> int:
    """Answer over HTTP what is in images: POST /predict, a page at /, and counters, until SIGTERM or Ctrl-C."""
    from swinkit.serve import Settings, serve

    body, pixels = _scaled("--max-mb", max_mb, 2**20), _scaled("--max-megapixels", max_megapixels, 10**6)
    settings = Settings(
        host=host, port=port, max_batch=max_batch, max_wait_ms=max_wait_ms, queue=queue, max_images=max_images, max_bytes=body,
        bytes_in_flight=max(Settings.bytes_in_flight, body), max_pixels=pixels, timeout_s=timeout,
        token=_token(token_file), hosts=tuple(allow_host or ()), access_log=access_log,
    )  # fmt: skip
    if ray:
        return _serve_with_ray(
            models, settings, names=name, device=device, amp=amp, replicas=1 if replicas is None else replicas, max_replicas=max_replicas
        )
    if replicas is not None or max_replicas is not None:
        raise ConfigError("--replicas and --max-replicas are numbers of Ray's processes; add --ray, or leave them out.")
    serve(*models, names=name, settings=settings, device=device, amp=amp, say=_tell)
    return 0


def _serve_with_ray(models: list[str], settings: Settings, **options: Any) -> int:
    from swinkit.serve.ray import run

    run(models, settings, _tell, **options)
    return 0


def _scaled(name: str, value: float, unit: int) -> int:
    if not 0 < value < 1e6:
        raise ConfigError(f"{name} is {value:g}; expected a number above 0.")
    return max(1, int(value * unit))


def _token(file: str | None) -> str | None:
    """Never an argument: those are seen by everybody on the machine."""
    if file is None:
        return token.strip() if (token := os.environ.get("SWINKIT_TOKEN")) is not None else None
    path = Path(file).expanduser()
    if os.name == "posix" and path.stat().st_mode & 0o004:
        _tell(f"WARNING: other users of this machine may read {printable(str(path))}; chmod 600 it.")
    return path.read_text(errors="replace").strip()


def _tell(line: str) -> None:
    print(f"serve: {line}", file=sys.stderr, flush=True)
