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
    overwrite: Annotated[bool, Parameter(negative="", help="Replace the file.")] = False,
    as_json: Json = False,
) -> int:
    """Write a model as a file of another runtime; it is run there and compared with PyTorch before it gets its name."""
    from swinkit.errors import ConfigError
    from swinkit.export import export

    if img_size is not None and len(img_size) not in (1, 2):
        raise ConfigError(f"--img-size got {len(img_size)} numbers; give SIDE, or HEIGHT WIDTH.")
    size = None if img_size is None else (img_size[0], img_size[-1])
    written = export(
        source, to=to, out=out, dynamic=dynamic, img_size=size, batch_size=batch_size, with_preprocessing=with_preprocessing,
        dtype=dtype, overwrite=overwrite, say=_say,
    )  # fmt: skip
    print(json.dumps(written.to_dict()) if as_json else written.table())
    print(f"written  {' '.join(str(file) for file in written.files)}", file=sys.stderr)
    return 0


def _say(line: str) -> None:
    print(f"export: {line}", file=sys.stderr)
