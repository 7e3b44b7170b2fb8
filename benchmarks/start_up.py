"""How long the first things take that a person does: importing swinkit, `swinkit --help`, building a model.

    python benchmarks/start_up.py [repetitions]

Each is a new process; the commands are interleaved and the medians, with the quartiles, are in seconds.
"""

import platform
import statistics
import subprocess
import sys
import time

import torch

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch, swinkit": [sys.executable, "-c", "import torch, swinkit"],
    "import swinkit": [sys.executable, "-c", "import swinkit"],
    "import torch; swinkit.create_model": [sys.executable, "-c", "import torch, swinkit; swinkit.create_model"],
    "swinkit --help": [sys.executable, "-m", "swinkit", "--help"],
    "swinkit models": [sys.executable, "-m", "swinkit", "models"],
}


def main(repetitions):
    times = {name: [] for name in COMMANDS}
    for _ in range(repetitions):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - started)
    where, versions = platform.processor() or platform.machine(), f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{where}, {versions}, {repetitions} repetitions")
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"{name:36} {middle:6.3f}  ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)
