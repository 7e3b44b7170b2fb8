"""The formats: what each can hold, what it needs, and who writes it."""

from __future__ import annotations

from dataclasses import dataclass

WRITERS = "swinkit.export.writers"


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    suffix: str
    write: str
    """"module:function" that writes it: (net, facts, file) -> None"""
    packages: tuple[str, ...] = ()
    extra: str = ""
    """The extra that brings them."""
    dynamic: bool = True
    """Whether height, width and the number of images may vary."""
    dtypes: tuple[str, ...] = ("float32",)


FORMATS = {
    "onnx": Format(".onnx", f"{WRITERS}.onnx:write", ("onnx", "onnxscript", "onnxruntime"), "onnx", dtypes=("float32", "float16")),
    "openvino": Format(".xml", f"{WRITERS}.openvino:write", ("openvino", "onnx", "onnxscript"), "openvino", dtypes=("float32", "float16")),
    "torch-export": Format(".pt2", f"{WRITERS}.torch_export:write", dtypes=("float32", "bfloat16", "float16")),
    "aoti": Format(".pt2", f"{WRITERS}.aoti:write", dtypes=("float32", "bfloat16")),
    "executorch": Format(".pte", f"{WRITERS}.executorch:write", ("executorch",), "executorch", dynamic=False),
}
