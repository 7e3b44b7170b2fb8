"""Fuzz the readers of weights: python tests/fuzz_opening.py --seconds 900 --seed 0

Valid files of each format are broken at random: bytes, headers, indices, and whole pickles written from random opcodes. Whatever comes,
opening must end in tensors that can be read or in a CheckpointError, within seconds, within bounded memory, and without starting,
connecting or writing anything. An input that breaks this stays in the folder that is printed; keep it as a test.
"""

import argparse
import collections
import io
import json
import os
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import safetensors.torch
import torch

from swinkit.checkpoints.opening import open_weights
from swinkit.checkpoints.opening.checking import not_finite
from swinkit.checkpoints.opening.unpickling import STAND_INS
from swinkit.errors import CheckpointError

FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "webbrowser.", "ftplib.", "urllib.", "http.")
HARMLESS = {"os.listdir", "os.scandir", "os.putenv", "os.walk", "os.fwalk"}
PRIVATE_LIMIT_KIB = 1 << 20
NUMBERS = (0, 1, -1, 2, 7, 255, 256, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
watching, seen = False, []


def watch(event, arguments):
    """Note what must not happen. (To raise here would end in a CheckpointError like any other error.)"""
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if watching and (
        writes
        or (event == "exec" and not any(own in arguments[0].co_filename for own in ("/encodings/", "/torch/")))
        or (event.startswith(FORBIDDEN) and event not in HARMLESS)
    ):
        seen.append(f"{event} {arguments}"[:500])


def state():
    return collections.OrderedDict(
        {
            "head.weight": torch.randn(3, 4),
            "head.bias": torch.zeros(3, dtype=torch.bfloat16),
            "index": torch.arange(6).view(2, 3),
            "t": torch.ones(4, 2).t(),
        }
    )


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def corpus():
    raw = state()
    whole = {
        "model": {f"module.{name}": tensor for name, tensor in raw.items()},
        "config": argparse.Namespace(a=[1, {"b": 2.0}]),
        "epoch": 3,
    }
    shard = safetensors.torch.save({name: tensor.contiguous() for name, tensor in raw.items()})
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(raw, "shard.safetensors")}).encode()
    return {
        "safetensors": [shard],
        "zip": [saved(whole), saved(raw), saved([1, raw])],
        "legacy": [saved(whole, _use_new_zipfile_serialization=False), saved(raw, _use_new_zipfile_serialization=False)],
        "index": [index],
    }


def mangle(data, rng, others):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 4, 8, 64, 1024)))
        match rng.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                data[at:end] = rng.randbytes(end - at)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end] * rng.choice((1, 2, 50))
            case 4:
                del data[at:]
            case 5:
                data[at:end] = struct.pack("<q", rng.choice(NUMBERS[:13]))[: max(1, end - at)]
            case 6:
                other = rng.choice(others)
                start = rng.randrange(len(other))
                data[at:end] = other[start : start + end - at]
            case _:
                data[at : at + 1] = bytes([rng.choice(b'\x80\x00(.cRbtuse}]q{\xff"[0,:')])
    return bytes(data)


def mangle_json(value, rng):
    """Another value somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {**value, rng.choice(("", "a" * 9999, "\ud800", "\0", "../x", "__metadata__", "data_offsets")): value[key]}
        return {**value, key: mangle_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        return [*value[:at], mangle_json(value[at], rng), *value[at + 1 :]]
    odd = (
        "",
        "F64",
        "F4",
        "C64",
        "F8_E4M3",
        "BOOL",
        "../../etc/passwd",
        "/etc/passwd",
        "shard.safetensors",
        ".",
        [],
        {},
        None,
        True,
        1.5,
        [[]],
        "x" * 5000,
    )
    return rng.choice((*odd, *NUMBERS))


def odd_safetensors(data, rng):
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    for _ in range(rng.choice((1, 1, 2, 3))):
        header = mangle_json(header, rng)
    text = json.dumps(header).encode() + b" " * rng.randrange(9)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def odd_index(data, rng):
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        content = mangle_json(content, rng)
    return json.dumps(content).encode()


KNOWN = (
    *("collections.OrderedDict", "collections.Counter", "_codecs.encode", "builtins.bytearray", "builtins.set", "builtins.complex"),
    *("torch.Size", "torch.Tensor", "torch.FloatTensor", "torch.sparse.FloatTensor", "torch.device", "torch.float32"),
    *("torch.FloatStorage", "torch.BFloat16Storage", "torch.storage.UntypedStorage", "torch.storage.TypedStorage"),
    *("torch.nn.parameter.Parameter", "torch.serialization._get_layout", "torch._tensor._rebuild_from_type_v2"),
    *(f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "qtensor")),
    *(f"torch._utils._rebuild_{kind}" for kind in ("sparse_tensor", "meta_tensor_no_storage", "nested_tensor", "wrapper_subclass")),
    *(f"torch._utils._rebuild_device_tensor_from_{kind}" for kind in ("numpy", "cpu_tensor")),
)
DANGEROUS = (
    *("os.system", "posix.system", "builtins.eval", "builtins.exec", "builtins.open", "builtins.__import__", "subprocess.Popen"),
    *("torch.load", "torch.hub.load", "torch.jit.load", "runpy.run_path", "numpy.load", "pickle.loads", "operator.attrgetter"),
)
NAMES = (*KNOWN, *(name for _, name in STAND_INS))


def one_global(rng):
    module, _, name = rng.choice(rng.choices((NAMES, KNOWN, DANGEROUS), (60, 37, 3))[0]).rpartition(".")
    return f"c{module}\n{name}\n".encode()


def one_value(rng, deep=3):
    """Opcodes that push one value."""
    simple = (
        lambda: b"K" + bytes([rng.randrange(256)]),
        lambda: b"J" + struct.pack("<i", rng.choice((-1, 0, 4, 2**31 - 1))),
        lambda: b"\x8a\x08" + struct.pack("<q", rng.choice(NUMBERS[:13])),
        lambda: (
            b"X"
            + struct.pack(
                "<I",
                len(t := rng.choice((b"0", b"cpu", b"storage", b"head.weight", b"dtype", b"items", b"get", b"detach", b"numel", b"data"))),
            )
            + t
        ),
        lambda: rng.choice((b"N", b"\x88", b"\x89", b"}", b"]", b")", b"\x8f")),
        lambda: b"h" + bytes([rng.randrange(4)]),
        lambda: one_storage(rng),
        lambda: one_global(rng),
    )
    if deep == 0 or rng.random() < 0.3:
        return rng.choice(simple)()
    part = lambda: one_value(rng, deep - 1)  # noqa: E731
    return rng.choice(
        (
            lambda: one_tensor(rng),
            lambda: one_tensor(rng),
            lambda: one_global(rng) + b"(" + b"".join(part() for _ in range(rng.randrange(4))) + b"tR",
            lambda: one_global(rng) + part() + b"\x85" + rng.choice((b"R", b"\x81")),
            lambda: one_global(rng) + b")" + rng.choice((b"R", b"\x81")) + part() + b"b",
            lambda: b"}(" + part() + part() + b"u",
            lambda: b"](" + part() + part() + b"e",
            lambda: part() + part() + b"\x86",
            lambda: part() + part() + b"b",
            lambda: part() + b"q" + bytes([rng.randrange(4)]),
            lambda: part() + b"Q",
        )
    )()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def one_storage(rng):
    kind = rng.choice((b"FloatStorage", b"FloatStorage", b"LongStorage", b"ComplexFloatStorage", b"UntypedStorage", b"QInt8Storage"))
    count = b"\x8a\x08" + struct.pack("<q", rng.choice((4, 12, 0, 2**33, 2**60, -1)) if rng.random() < 0.3 else 12)
    return (
        b"(" + text(b"storage") + b"ctorch\n" + kind + b"\n" + text(rng.choice((b"0", b"1", b"2", b"../0"))) + text(b"cpu") + count + b"tQ"
    )


def one_tensor(rng):
    def size():
        return b"\x8a\x08" + struct.pack("<q", rng.choice(NUMBERS[:13]) if rng.random() < 0.08 else rng.randrange(4))

    shape, stride = (b"(" + size() + size() + b"t" for _ in range(2))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + one_storage(rng) + size() + shape + stride + b"\x89ccollections\nOrderedDict\n)RtR"


def one_pickle(rng):
    def pair(i):
        key = text(b"w%d" % i) if rng.random() < 0.95 else one_value(rng, 1)
        return key + (one_tensor(rng) if rng.random() < 0.4 else one_value(rng))

    pairs = b"".join(pair(i) for i in range(rng.randrange(1, 4)))
    body = b"\x80\x02}q\x00(" + pairs + b"u"
    if rng.random() < 0.3:
        body = b"\x80\x02}" + text(rng.choice((b"model", b"state_dict", b"model_ema", b"optimizer"))) + body[2:] + b"s"
    return mangle(body + b".", rng, [body]) if rng.random() < 0.2 else body + b"."


def odd_zip(data, rng):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for record in old.infolist():
            content = old.read(record)
            if record.filename.endswith("/data.pkl"):
                content = one_pickle(rng)
            elif rng.random() < 0.05:
                content = mangle(content, rng, [data])
            new.writestr(record.filename, content)
    return out.getvalue()


def odd_legacy(data, rng):
    file = io.BytesIO(data)
    for _ in range(3):
        pickle.load(file)  # three numbers and strings that this script wrote itself
    head = data[: file.tell()]
    return head + one_pickle(rng) + pickle.dumps(["0", "1"], 2) + struct.pack("<q", 12) + bytes(48) * 2


STRUCTURED = {"safetensors": odd_safetensors, "index": odd_index, "zip": odd_zip, "legacy": odd_legacy}


def attempt(path):
    """'read' or 'refused'; anything else raises."""
    global watching
    watching = True
    try:
        opened = open_weights(path)
        not_finite(opened.tensors)
        for tensor in opened.tensors.values():
            tensor.clone()
        result = "read"
    except CheckpointError as error:
        result, message = "refused", str(error)
        if "\n" in message or len(message) > 1000 or not message.isprintable():
            raise AssertionError(f"not one sentence: {message!r}") from error
    finally:
        watching = False
    if seen:
        events = seen.copy()
        seen.clear()
        raise AssertionError(f"side effects: {events}")
    return result


def private_kib():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Anonymous:"))


def guard_memory():
    """End at once, leaving the input, when memory grows within one attempt; the machine must not run out of it."""
    limit = private_kib() + 2 * PRIVATE_LIMIT_KIB
    while private_kib() < limit:
        time.sleep(0.05)
    print("more than 2 GiB of private memory within one attempt: see input.bin", flush=True)
    os._exit(3)


def too_slow(*_):
    raise TimeoutError("more than 20 seconds")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, files, folder = random.Random(options.seed), corpus(), Path(tempfile.mkdtemp(prefix="fuzz-opening-"))
    print(f"{folder}: inputs that break something stay here", flush=True)
    (folder / "shard.safetensors").write_bytes(files["safetensors"][0])
    everything: list[bytes] = [data for group in files.values() for data in group]
    path = folder / "input.bin"
    for data in everything:
        path.write_bytes(data)
        attempt(path)  # also imports whatever torch imports late
    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, resource.RLIM_INFINITY))
    threading.Thread(target=guard_memory, daemon=True).start()
    count, broken, end, start_kib = collections.Counter(), 0, time.monotonic() + options.seconds, private_kib()
    while time.monotonic() < end:
        kind = rng.choice(list(files))
        data = rng.choice(files[kind])
        data = STRUCTURED[kind](data, rng) if rng.random() < 0.7 else mangle(data, rng, everything)
        path.write_bytes(data)
        signal.alarm(20)
        try:
            count[kind, attempt(path)] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            broken += 1
            kept = folder / f"broken-{broken}-{kind}-{type(error).__name__}"
            kept.write_bytes(data)
            print(f"{kept}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        finally:
            signal.alarm(0)
        if sum(count.values()) % 200 == 0 and private_kib() - start_kib > PRIVATE_LIMIT_KIB:
            raise MemoryError(f"{private_kib() - start_kib} KiB of private memory more than at the start")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{dict(count)}; {broken} broken; peak resident memory {peak} KiB, private growth {private_kib() - start_kib} KiB")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
