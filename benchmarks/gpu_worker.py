"""A process of benchmarks/gpu.py that holds one model: it compiles it when there is a place, and takes its turns at the clock."""

import gc
import time
import traceback
from contextlib import nullcontext
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
import torch._functorch.config
import torch.nn.functional as F
from gpu_checks import TINY, flex_attend, images

from swinkit.kernels import choose, gpu
from swinkit.kernels.training import compiling
from swinkit.model import SwinTransformer
from swinkit.variants import get_config


class Contender(NamedTuple):
    """Who computes, compiled or not, and what else is asked for."""

    whose: str
    """"ours", "timm", or "flex": our model with attention by FlexAttention and everything else by its definition."""
    compiled: bool
    memory: str = "full"

    def __str__(self):
        return f"{self.whose} {'compiled' if self.compiled else 'eager'}{', lean' if self.memory == 'lean' else ''}"


class Bench:
    """The model, the optimizer and one step for each batch that was prepared."""

    def __init__(self, name, training, contender, dry):
        self.name, self.training, self.contender, self.dry = name, training, contender, dry
        self.device = "cpu" if dry else "cuda"
        torch.manual_seed(0)
        self.model = self.build().to(self.device).train(training)
        self.amp = training or (contender.whose == "timm" and not contender.compiled)
        if not self.amp:
            self.model = self.model.bfloat16()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=not dry) if training else None
        self.steps = {}

    def build(self):
        changes = TINY if self.dry else {}
        if self.contender.whose == "timm":
            import timm

            return timm.create_model(self.name, **changes)
        attend = flex_attend if self.contender.whose == "flex" else gpu.attend if self.dry else choose("cuda").attend
        return SwinTransformer(get_config(self.name).replace(**changes), attend=attend)

    def compiled(self, batch):
        if not self.contender.compiled:
            return self.model
        if self.dry:
            return torch.compile(self.model, dynamic=False, backend="aot_eager")
        mode = "reduce-overhead" if batch == 1 else None  # CUDA graphs
        return torch.compile(self.model, dynamic=False, mode=mode)

    def step(self, batch):
        """A function that does one forward pass, or one step of training."""
        run, x = self.compiled(batch), images(self, self.model, batch).to(next(self.model.parameters()).dtype)
        labels = torch.zeros(batch, dtype=torch.int64, device=self.device)

        def step():
            keeping = compiling(self.contender.memory) if self.contender.compiled else nullcontext()
            with keeping, torch.autocast(self.device, torch.bfloat16, enabled=self.amp), torch.set_grad_enabled(self.training):
                out = run(x)
            if self.optimizer:
                F.cross_entropy(out.float(), labels).backward()
                self.optimizer.step()
                self.optimizer.zero_grad()

        return step

    def prepare(self, batch):
        """Compiles, and runs what is measured a few times."""
        self.steps[batch] = self.step(batch)
        for _ in range(1 if self.dry else 4):
            self.steps[batch]()
        self.tidy()

    def tidy(self):
        gc.collect()
        if not self.dry:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def own_bytes(self, batch):
        """Weights, what the optimizer keeps, and the images of a batch; whatever else the process holds belongs to other measurements."""
        states = self.optimizer.state.values() if self.optimizer else ()
        kept = [*self.model.parameters(), *self.model.buffers(), *(tensor for state in states for tensor in state.values())]
        image = images(self, self.model, 1).to(next(self.model.parameters()).dtype)
        return sum(tensor.nbytes for tensor in kept if tensor.is_cuda) + batch * image.nbytes

    def clock(self, batch, seconds):
        """Images per second in some stretches of a tenth of a second, and the peak of this model's memory in MiB."""
        if self.dry:
            self.steps[batch]()
            return [], 0.0
        step = self.steps[batch]
        step()
        torch.cuda.synchronize()
        others = torch.cuda.memory_allocated() - self.own_bytes(batch)
        torch.cuda.reset_peak_memory_stats()
        once, rates = stretch(step, 1), []
        count, end = max(1, round(0.1 / once)), time.perf_counter() + seconds
        while not rates or time.perf_counter() < end:
            rates.append(batch * count / stretch(step, count))
        peak = (torch.cuda.max_memory_allocated() - others) / 2**20
        self.tidy()
        return rates, peak


def stretch(step, count):
    """Seconds that so many steps take."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def first_line(problem):
    """Of what went wrong."""
    return next(iter(str(problem).strip().splitlines()), "")[:300]


# The backward pass is compiled before the forward pass runs, so that no activations wait for it.
torch._functorch.config.force_non_lazy_backward_lowering = True


def work(pipe: Connection, places, name, training, contenders, batches, dry):
    """Prepares every contender for every batch and tells how that went, then answers what it is asked: (contender, batch, seconds)."""
    benches = {}
    for batch in batches:
        for contender in contenders:
            try:
                with places:
                    if contender not in benches:
                        benches[contender] = Bench(name, training, contender, dry)
                    benches[contender].prepare(batch)
                pipe.send((contender, batch, None))
            except Exception as problem:
                traceback.print_exc()
                pipe.send((contender, batch, f"{type(problem).__name__}: {first_line(problem)}"))
    while (asked := pipe.recv()) is not None:
        try:
            pipe.send(benches[asked[0]].clock(*asked[1:]))
        except Exception as problem:
            traceback.print_exc()
            pipe.send(f"{type(problem).__name__}: {first_line(problem)}")
