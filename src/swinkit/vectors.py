"""Vectors on disk: shards that outlive an interruption, and the one file that they become.

N images | M rows of a shard | D values per vector
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from swinkit.checkpoints.files import flush, write_atomic
from swinkit.errors import ConfigError, DataError

PLAN = "plan.json"
FORMAT_VERSION = 1
DIFFERENCES = {
    "format_version": "from another version of swinkit",
    "config": "of another architecture",
    "weights_sha256": "of other weights",
    "preprocess": "of images prepared in another way",
    "images_sha256": "of other images",
    "normalize": "with the other --normalize",
    "precision": "in another precision (--amp)",
}
"""What has to be equal for an interrupted call to be continued, and what to say where it is not."""


@dataclass(frozen=True, eq=False)
class Names:
    """What the N images are called, and their labels if they have any."""

    sources: Sequence[str]
    labels: Sequence[str] | None

    def columns(self, rows: NDArray[np.int64]) -> dict[str, list[str]]:
        """The columns `source` and perhaps `label` of the images `rows` (M,)."""
        columns = {"source": self.sources} | ({} if self.labels is None else {"label": self.labels})
        return {name: [values[row] for row in rows.tolist()] for name, values in columns.items()}

    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps([self.sources, self.labels]).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Shard:
    """Some images' vectors (M, D) float32, which images those are (M,) int64, and (image, reason) of each one that cannot be read."""

    vectors: NDArray[np.float32]
    rows: NDArray[np.int64]
    failures: tuple[tuple[int, str], ...] = ()

    def write(self, path: Path) -> None:
        """All or nothing, and on disk when this returns."""
        arrays: dict[str, NDArray[Any]] = {"vectors": np.ascontiguousarray(self.vectors), "rows": self.rows}
        write_atomic(path, safetensors.numpy.save(arrays, metadata={"failures": json.dumps(self.failures)}))

    @classmethod
    def read(cls, path: Path) -> Shard:
        """What `write` wrote."""
        with safetensors.safe_open(path, framework="np") as file:
            return cls(file.get_tensor("vectors"), file.get_tensor("rows"), _failures(file))


def _failures(file: Any) -> tuple[tuple[int, str], ...]:
    return tuple((int(row), str(why)) for row, why in json.loads(file.metadata()["failures"]))


class Shards:
    """The folder OUT.parts: plan.json, which says what work this is, and part-N.safetensors, the shards that are done."""

    def __init__(self, out: Path) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        self.plan = self.folder / PLAN

    def begin(self, plan: Mapping[str, Any], overwrite: bool) -> int:
        """The size of the shards: that of `plan`, or that of the interrupted call whose shards are kept.

        Errors: DataError for shards of other work, unless `overwrite` is set, and for a folder that is not swinkit's.
        """
        if self.plan.is_file() and overwrite:
            self.remove()
        if self.plan.is_file():
            return self._go_on(plan)
        self._check_ours()
        # What a killed call had not yet removed; without its plan nobody knows whose vectors these are.
        shutil.rmtree(self.folder, ignore_errors=True)
        write_atomic(self.plan, json.dumps(plan, indent=2) + "\n")
        flush(self.folder.parent)
        return int(plan["shard_size"])

    def _check_ours(self) -> None:
        for path in self.folder.glob("*"):
            if path.suffix != ".writing" and not path.match("part-*.safetensors"):
                raise DataError(f"{self.folder} holds {path.name}, which is not swinkit's. Move it away, or choose another --out.")

    def _go_on(self, plan: Mapping[str, Any]) -> int:
        advice = "Give --overwrite (overwrite=True) to start anew, or another --out."
        try:
            kept = json.loads(self.plan.read_text(encoding="utf-8"))
            differ = [says for field, says in DIFFERENCES.items() if kept.get(field) != plan[field]]
            size = range(1, kept["shard_size"] + 1)[-1]
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            raise DataError(f"{self.plan} cannot be read, so what the shards beside it hold is unknown. {advice}") from None
        if differ:
            raise DataError(f"{self.folder} holds the shards of an interrupted call that were made {', '.join(differ)}. {advice}")
        return size

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"part-{number:05}.safetensors"

    def has(self, number: int) -> bool:
        """Whether a shard is there and whole."""
        try:
            self.describe(number)
        except (OSError, ValueError, LookupError, TypeError, safetensors.SafetensorError):
            return False
        return True

    def describe(self, number: int) -> tuple[tuple[int, int], tuple[tuple[int, str], ...]]:
        """((M, D), failures) of a shard, without reading its vectors."""
        with safetensors.safe_open(self.path(number), framework="np") as file:
            rows, dim = file.get_slice("vectors").get_shape()
            return (rows, dim), _failures(file)

    def read(self, count: int) -> Iterator[Shard]:
        """The first `count` shards, one at a time."""
        return (Shard.read(self.path(number)) for number in range(count))

    def remove(self) -> None:
        """Remove the folder, the plan first: without it the rest counts for nothing."""
        self.plan.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def check_out(out: Path, overwrite: bool) -> None:
    """Errors: ConfigError for a suffix that is neither .parquet nor .npy, or if pyarrow is missing; DataError for what is there already."""
    if out.suffix not in _WRITERS:
        raise ConfigError(f"{out} ends in {out.suffix or 'no suffix'!r}; expected a name that ends in {' or '.join(_WRITERS)}.")
    if out.suffix == ".parquet":
        _check_pyarrow(out)
    for path in (out, names_file(out)) if out.suffix == ".npy" else (out,):
        if path.is_dir():
            raise DataError(f"{path} is a folder; expected the name of a file to write.")
        if path.exists() and not overwrite and not Shards(out).plan.is_file():
            raise DataError(f"{path} exists already; give another --out, or --overwrite (overwrite=True) to replace it.")


def _check_pyarrow(out: Path) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"{out} needs pyarrow, which is missing: pip install 'swinkit[data]', or give a name that ends in .npy."
        ) from None


def names_file(out: Path) -> Path:
    """The file beside vectors.npy that names its rows: vectors.names.json."""
    return out.with_suffix(".names.json")


def join(shards: Shards, count: int, out: Path, names: Names, metadata: Mapping[str, str]) -> tuple[int, list[tuple[int, str]]]:
    """Make `out` of `count` shards, all or nothing, one shard in memory at a time; returns (rows written, failures).

    Where there is no row nothing is written.
    """
    described = [shards.describe(number) for number in range(count)]
    failures = [failure for _, of_shard in described for failure in of_shard]
    rows = sum(shape[0] for shape, _ in described)
    if rows:
        _WRITERS[out.suffix](shards.folder, lambda: shards.read(count), (rows, described[0][0][1]), out, names, metadata)
    return rows, failures


Read = Callable[[], Iterator[Shard]]


def _write_parquet(scratch: Path, read: Read, size: tuple[int, int], out: Path, names: Names, metadata: Mapping[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vector = pa.list_(pa.float32(), size[1])
    texts = {name: pa.string() for name in names.columns(np.empty(0, np.int64))}
    schema = pa.schema(texts | {"vector": vector}, metadata=dict(metadata))
    beside = scratch / "joined.writing"
    # Vectors hardly ever repeat a value: a dictionary of them would only cost time.
    with pq.ParquetWriter(beside, schema, use_dictionary=["label"]) as writer:
        for shard in read():
            if len(shard.rows):
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(shard.vectors.reshape(-1)), type=vector)
                writer.write_table(pa.table(names.columns(shard.rows) | {"vector": vectors}, schema=schema))
    _publish(beside, out)


def _write_npy(scratch: Path, read: Read, size: tuple[int, int], out: Path, names: Names, metadata: Mapping[str, str]) -> None:
    beside = scratch / "joined.writing"
    matrix = np.lib.format.open_memmap(beside, mode="w+", dtype=np.float32, shape=size)
    columns: dict[str, list[str]] = {name: [] for name in names.columns(np.empty(0, np.int64))}
    done = 0
    for shard in read():
        matrix[done : done + len(shard.rows)] = shard.vectors
        done += len(shard.rows)
        for name, values in names.columns(shard.rows).items():
            columns[name] += values
    matrix.flush()
    del matrix
    named = scratch / "names.writing"
    named.write_text(json.dumps({f"{name}s": values for name, values in columns.items()} | {"metadata": dict(metadata)}) + "\n")
    # The names first: whoever finds the vectors finds their names too.
    _publish(named, names_file(out))
    _publish(beside, out)


def _publish(beside: Path, out: Path) -> None:
    flush(beside)
    os.replace(beside, out)
    flush(out.parent)


_WRITERS = {".parquet": _write_parquet, ".npy": _write_npy}
