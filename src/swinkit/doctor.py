"""What swinkit finds on this machine: versions, devices, the kernel it will use and why, and which extras are missing."""

from __future__ import annotations

import platform
import re
from importlib.metadata import requires
from typing import Any

from swinkit._verbs import callable_module
from swinkit.environment import package_version

EXTRAS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "nncf", "onnx", "onnxscript"),
    "executorch": ("executorch",),
    "explain": ("captum",),
    "serve": ("fastapi", "uvicorn", "python-multipart", "prometheus-client"),
    "ray": ("ray",),
    "docs": ("sphinx", "myst-parser", "furo"),
    "bench": ("timm", "transformers", "openvino", "onnx", "onnxscript", "onnxruntime"),
    "data": ("datasets", "webdataset", "pyarrow"),
    "dev": ("pytest", "pytest-xdist", "hypothesis", "schemathesis", "playwright", "ruff", "mypy", "build", "timm"),
}
"""extra -> the packages it brings"""


def doctor() -> dict[str, Any]:
    """What swinkit finds on this machine, as plain data; what is missing is in it and is no error.

    "versions", "devices" and the "precision" that each trains in, "kernels" (attention, per device, with the reason), "inference" (the
    engine of `prepare`, per dtype), "extras" (per extra, the packages that are missing), "problems" (sentences; empty where all is well).
    """
    import torch

    import swinkit
    from swinkit.kernels import choose
    from swinkit.runtimes.device import describe, pick_amp

    versions = {"swinkit": swinkit.__version__, "python": platform.python_version(), "platform": platform.platform()}
    versions |= {name: package_version(name) for name in _required()}
    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    kernels = {str(device): choose(device.type) for device in devices}
    engines = {str(dtype).removeprefix("torch."): _engine(dtype) for dtype in (torch.float32, torch.bfloat16, torch.int8)}
    return {
        "versions": versions,
        "devices": {str(device): describe(device) for device in devices},
        "precision": {str(device): str(pick_amp(None, device) or torch.float32).removeprefix("torch.") for device in devices},
        "kernels": {device: {"name": kernel.name, "reason": kernel.reason} for device, kernel in kernels.items()},
        "inference": engines,
        "extras": {extra: [name for name in packages if package_version(name) == "missing"] for extra, packages in EXTRAS.items()},
        "problems": _problems(versions),
    }


def text(findings: dict[str, Any]) -> str:
    """The findings for a person."""
    lines = [f"{name:16} {value}" for name, value in findings["versions"].items()]
    lines += ["", *(f"{name:16} {what}; trains in {findings['precision'][name]}" for name, what in findings["devices"].items())]
    lines += [f"{'attention ' + device:16} {kernel['name']}: {kernel['reason']}" for device, kernel in findings["kernels"].items()]
    lines += [f"{'CPU ' + dtype:16} {engine['name']}: {engine['reason']}" for dtype, engine in findings["inference"].items()] + [""]
    for extra, missing in findings["extras"].items():
        state = "installed" if not missing else f"missing {', '.join(missing)}; install with: pip install 'swinkit[{extra}]'"
        lines.append(f"{'extra ' + extra:16} {state}")
    lines += [f"{'problem':16} {problem}" for problem in findings["problems"]]
    return "\n".join(lines)


def _engine(dtype: Any) -> dict[str, str]:
    """What `prepare` chooses on this CPU for a model of a usual kind."""
    from swinkit.config import SwinConfig
    from swinkit.errors import ConfigError
    from swinkit.model import SwinTransformer
    from swinkit.prepare import choose

    model = SwinTransformer(SwinConfig(img_size=8, embed_dim=32, depths=(1,), num_heads=(1,), window_size=2, num_classes=2))
    try:
        name, _, reason = choose(model, dtype, "auto")
    except ConfigError as error:
        name, reason = "none", str(error)
    return {"name": name, "reason": reason}


def _required() -> list[str]:
    """Names of the packages that swinkit declares it needs."""
    return [re.split(r"[^\w.-]", line)[0] for line in requires("swinkit") or [] if "extra ==" not in line]


def _problems(versions: dict[str, str]) -> list[str]:
    missing = [name for name in _required() if versions[name] == "missing"]
    return [f"required packages are missing: {', '.join(missing)}; install with: pip install {' '.join(missing)}"] if missing else []


callable_module(__name__)
