"""The verbs that take a model elsewhere. Heavy imports stand inside, so that help is instant."""

from __future__ import annotations

import json
import sys
from typing import Annotated

from cyclopts import Parameter

from swinkit.cli.shared import Json, Source, app


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
    from swinkit.errors import ConfigError
    from swinkit.export import Int8, export

    if img_size is not None and len(img_size) not in (1, 2):
        raise ConfigError(f"--img-size got {len(img_size)} numbers; give SIDE, or HEIGHT WIDTH.")
    if int8 != bool(calibration):
        raise ConfigError("--int8 and --calibration DATA belong together: ranges are set by images like those that the model will see.")
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
