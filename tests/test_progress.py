"""What stands in a log file while a model trains."""

import io

from rich.console import Console

from swinkit.train import progress
from swinkit.train.progress import TrainingProgress, clock


def test_long_epochs_say_something_every_minute_and_short_ones_do_not(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with TrainingProgress(Console(file=out, width=60), epochs=2, steps_per_epoch=100, done=0) as bar:
        for step in range(1, 101):
            now[0] += 10.0
            bar.step(step)
            bar.measured(1.5, 0.25, 640.0)
        bar.epoch(1, 1.2, 0.5, best=True)
    lines = out.getvalue().splitlines()
    assert len(lines) == 100 // 7 + 1
    assert lines[0] == "step 7/200  epoch 0.07    640 images/s  loss 1.500  train 25.0 %  32 min 10 s left"
    assert lines[-1].startswith("epoch   1/2")
    assert lines[-1].endswith("16 min 40 s left  best so far")
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()


def test_clock():
    assert [clock(seconds) for seconds in (4, 74, 3661)] == ["4 s", "1 min 14 s", "1 h 1 min"]


class Gone(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_training_goes_on_when_nobody_reads_its_lines():
    with TrainingProgress(Console(file=Gone()), epochs=1, steps_per_epoch=2, done=0) as bar:
        bar.step(1)
        bar.say("one")
        bar.say("two")
        bar.epoch(1, 1.0, 0.5, best=False)
