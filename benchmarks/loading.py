"""Time and memory of reading Swin-L (0.9 GB) into a model, by the format of the file.

    python benchmarks/loading.py [rounds] [--peers]

Each measurement is a forked process of its own, with everything imported before and the file in the page cache; all take turns.

Time, against the library that the format comes from, which gives tensors in private memory and no model:
  .pth          torch.load(file, weights_only=True)
  .safetensors  safetensors.torch.load_file(file), each tensor cloned: load_file alone maps the file (10 ms), no more
Wall and processor time; the ratio is of the medians. One thread.

Memory: the largest growth of RssAnon in /proc/PID/status, seen by the parent every 5 ms in rounds that are not timed. It counts the pages
that belong to the process alone, and not those that lie in the file.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import safetensors
import safetensors.torch
import torch

import swinkit
from swinkit.checkpoints.dialects.writing import write
from swinkit.checkpoints.native import SavedModel

MODEL = "swin_large_patch4_window7_224"
DIALECTS = {
    "native": "native",
    "original.pth": "original",
    "timm.safetensors": "timm",
    "transformers.safetensors": "transformers",
    "mmpretrain.pth": "mmpretrain",
    "legacy.bin": "original",
}


def write_files(folder):
    model = swinkit.create_model(MODEL, num_classes=21841)
    saved = SavedModel(model.config, dict(model.state_dict()))
    for name, dialect in DIALECTS.items():
        if name == "legacy.bin":
            torch.save(saved.tensors, folder / name, _use_new_zipfile_serialization=False)
        else:
            write(saved, folder / name, dialect)
    for dialect in ("timm", "transformers"):
        write(saved, folder / f"{dialect} folder", dialect)


def by_the_library(path):
    path = path / "model.safetensors" if path.is_dir() else path
    if path.suffix == ".safetensors":
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    return torch.load(path, weights_only=True)


def by_timm(path):
    import timm

    return timm.create_model(f"local-dir:{path}", pretrained=True)


def by_transformers(path):
    import transformers

    return transformers.SwinForImageClassification.from_pretrained(path)


def measured(read, path, watch=False):
    """{"wall", "processor"} in seconds, or the growth of private memory in bytes."""
    receive, send = os.pipe()
    begin, let = os.pipe()
    child = os.fork()
    if child == 0:
        _child(read, path, begin, send)
    os.close(send)
    before = largest = private_memory(child)
    os.write(let, b".")
    os.set_blocking(receive, not watch)
    while (content := _read(receive)) is None:
        largest = max(largest, private_memory(child))
        time.sleep(0.005)
    largest = max(largest, private_memory(child))
    os.write(let, b".")
    os.waitpid(child, 0)
    for end in (receive, begin, let):
        os.close(end)
    return largest - before if watch else json.loads(content)


def _child(read, path, begin, send):
    """Read once when told to, tell the times, and keep what was read until told again."""
    try:
        os.read(begin, 1)
        wall, processor = time.perf_counter(), time.process_time()
        kept = read(path)
        os.write(send, json.dumps({"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}).encode())
        os.read(begin, 1)
        del kept
    except BaseException:
        traceback.print_exc()
    os._exit(0)


def _read(pipe):
    try:
        return os.read(pipe, 4096)
    except BlockingIOError:
        return None


def private_memory(process):
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def readers(folder, peers):
    """(what, file) -> function"""
    found = {}
    for name in DIALECTS:
        found["library", folder / name] = by_the_library
        found["swinkit", folder / name] = swinkit.from_pretrained
    if peers:
        found["timm", folder / "timm folder"] = by_timm
        found["transformers", folder / "transformers folder"] = by_transformers
    return found


def main(rounds, peers):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    assert callable(swinkit.from_pretrained)  # imports it
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, safetensors {safetensors.__version__}"
    if peers:
        import timm
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        assert timm.create_model
        assert transformers.SwinForImageClassification
        versions += f", timm {timm.__version__}, transformers {transformers.__version__}"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        measured(write_files, folder)
        todo = readers(folder, peers)
        times = {key: [measured(read, key[1])] for key, read in todo.items()}
        for _ in range(rounds):
            for key, read in todo.items():
                times[key].append(measured(read, key[1]))
        memory = {key: max(measured(read, key[1], watch=True) for _ in range(2)) for key, read in todo.items()}
        sizes = {key: size(key[1]) for key in todo}
    print(f"{platform.machine()}, {os.cpu_count()} processors, {versions}; {MODEL}, {rounds} rounds after one that does not count\n")
    print(
        "| file | read by | wall, s (quartiles) | processor, s (quartiles) | ratio of wall, processor | private memory / size of the file |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for (what, path), rows in times.items():
        cells = [spread([row[kind] for row in rows[1:]]) for kind in ("wall", "processor")]
        against = times.get(("library", path))
        ratio = ", ".join(f"{middle(rows, kind) / middle(against, kind):.2f}" for kind in ("wall", "processor")) if against else ""
        print(f"| {path.name} | {what} | {cells[0]} | {cells[1]} | {ratio} | {memory[what, path] / sizes[what, path]:.2f} |")


def size(path):
    return (path / "model.safetensors" if path.is_dir() else path).stat().st_size


def middle(rows, kind):
    return statistics.median(row[kind] for row in rows[1:])


def spread(values):
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    main(numbers[0] if numbers else 7, "--peers" in sys.argv)
