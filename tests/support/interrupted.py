"""The real command, killed again and again and resumed, beside the same command left alone.

`interrupted` kills ``fullconv train`` with SIGKILL at random times of a run in three stages, resumes it until it ends,
and compares what it left with `whole`: every net, every last state and every line of the log but what was measured.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from fullconv.datasets.synthetic.digits import Digits
from fullconv.io.label_image import write_label
from fullconv.training.saved_state import newest_state
from fullconv.weights.checkpoint import fingerprint, unpack

MEASURED = ("seconds", "memory")
"""What is in a record and depends on the machine."""

STAGES = ("32s", "16s", "8s")
RECIPE = """
about: three small stages
backbone: vgg11
width: 0.03125
native_size: 32
batch_size: 2
lr: 0.01
precision: fp32
flip: true
crop: 32x32
stages:
  - {{stride: 32, steps: {steps}}}
  - {{stride: 16, steps: {steps}, lr: 0.001}}
  - {{stride: 8, steps: {steps}, lr: 0.001, skip_scale: 0.5}}
"""


class Job:
    """One data set and one recipe, for runs that differ in nothing but where they are killed."""

    def __init__(self, folder, steps, save_every=2):
        self.folder, self.steps, self.save_every = folder, steps, save_every
        self.data, self.recipe = folder / "data", folder / "recipe.yaml"
        for split, length in (("train", 6), ("val", 2)):
            for kind in ("images", "labels"):
                (self.data / split / kind).mkdir(parents=True)
            for sample in Digits(split, size=(40, 52), length=length):
                Image.fromarray(sample.image).save(self.data / split / "images" / f"{sample.name}.png")
                write_label(self.data / split / "labels" / f"{sample.name}.png", sample.label, Digits(split).labels)
        names = ", ".join(f"'{name}'" for name in Digits("val").labels.names)
        (self.data / "classes.yaml").write_text(f"names: [{names}]\n")
        self.recipe.write_text(RECIPE.format(steps=steps))

    def begin(self, out, workers, prepare=None):
        """The command in a process of its own; its records come as lines. It goes on where there is something."""
        command = [
            *(sys.executable, "-m", "fullconv", "train", self.data, "--recipe", self.recipe, "--out", out, "--json"),
            *("--resume", "--save-every", self.save_every, "--eval-every", 3, "--workers", workers),
        ]
        with self.errors(out).open("ab") as errors:
            return subprocess.Popen(
                list(map(str, command)), stdout=subprocess.PIPE, stderr=errors, preexec_fn=prepare, text=True
            )

    def errors(self, out):
        """What the command says on standard error."""
        return out.with_suffix(".errors")

    def finish(self, out, workers):
        """Run the command to its end, whatever is there already."""
        process = self.begin(out, workers)
        process.communicate()
        assert process.returncode == 0, self.errors(out).read_text()


def left_by(out):
    """What a run left that must not depend on where it was killed."""
    nets = {
        str(path.relative_to(out)): fingerprint(unpack(path)[0])
        for path in sorted(out.rglob("*.safetensors"))
        if path.parent.name != "last"
    }
    states = {stage: newest_state(out / stage / "last")[1]["sha256"] for stage in STAGES}
    log = {
        stage: [
            {key: value for key, value in json.loads(line).items() if key not in MEASURED}
            for line in (out / stage / "log.jsonl").read_text("utf-8").splitlines()
        ]
        for stage in STAGES
    }
    reports = sorted(str(path.relative_to(out)) for path in out.rglob("report.html"))
    partial = [path.name for path in out.rglob(".*.tmp")]
    return {"nets": nets, "states": states, "log": log, "reports": reports, "partial": partial}


def differences(left, expected, where=""):
    """The first place of each part where two runs differ, and what is there."""
    if isinstance(left, dict) and isinstance(expected, dict) and left.keys() == expected.keys():
        return [line for key in left for line in differences(left[key], expected[key], f"{where} {key}")]
    if isinstance(left, list) and isinstance(expected, list) and len(left) == len(expected):
        pairs = enumerate(zip(left, expected, strict=True))
        return next((found for n, pair in pairs if (found := differences(*pair, f"{where} {n}"))), [])
    return [] if left == expected else [f"{where.strip()} is {left} and not {expected}"]


def whole(job):
    """The run that nobody killed."""
    out = job.folder / "whole"
    job.finish(out, 0)
    left = left_by(out)
    assert [line["step"] for line in left["log"]["8s"]] == list(range(1, job.steps + 1))
    assert {"model.safetensors", *(f"{stage}/model.safetensors" for stage in STAGES)} <= left["nets"].keys()
    assert len(left["reports"]) == 1 + len(STAGES)
    return left


def first_run(job, workers):
    """The folder of the first run that `interrupted` kills."""
    return job.folder / f"workers-{workers}-0"


def interrupted(job, expected, kills, workers, seed=0, places=("noted", "training", "after")):
    """Kill runs until there were `kills` kills, and let each run end. The first is the one in `first_run`, if that is
    begun already.

    A kill counts when the process died of it after its first record: ``noted`` right after a record, ``training`` some
    time later, in a step, an evaluation or a save, ``after`` when all steps of a stage are done: in the last save, in
    the report, in the start of the next stage.
    Returns the counts; ``again`` is the number of steps that were in the log and not in a state, and had to be done
    again; ``different`` says what of which run did not end as `expected`.
    """
    rng = random.Random(f"{workers} {seed}")
    counts = {"kills": 0, **dict.fromkeys(places, 0), "again": 0, "runs": 0, "different": []}
    while counts["kills"] < kills:
        out = first_run(job, workers).with_name(f"workers-{workers}-{counts['runs']}")
        ended = False
        while counts["kills"] < kills and not ended:
            place = places[counts["kills"] % len(places)]
            process = job.begin(out, workers)
            ended = not killed(process, job, place, rng)
            assert not ended or process.returncode == 0, job.errors(out).read_text()
            counts["kills"] += not ended
            counts[place] += not ended
            counts["again"] += 0 if ended else ahead(out)
        if not ended:
            job.finish(out, workers)
        counts["runs"] += 1
        counts["different"] += [f"{out.name}: {what}" for what in differences(left_by(out), expected)]
    return counts


def ahead(out):
    """How many steps the logs are ahead of the states."""
    steps = 0
    for log in out.rglob("log.jsonl"):
        states = [int(path.stem.partition("-")[2]) for path in (log.parent / "last").glob("step-*.safetensors")]
        steps += log.read_text("utf-8").count("\n") - max(states, default=0)
    return steps


def killed(process, job, place, rng):
    """Let it go on to a place in the run, then kill it; whether it died of that."""
    wanted, longest = rng.randint(1, job.save_every + 2), {"noted": 0.0, "training": 0.1, "after": 2.0}[place]
    with contextlib.closing(process.stdout):
        for number, line in enumerate(process.stdout, start=1):
            last = json.loads(line)["step"] == job.steps
            there = last if place == "after" else number >= wanted and not last
            if there:
                break
        time.sleep(rng.uniform(0, longest))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


def main():
    """``python -m tests.support.interrupted KILLS STEPS``: half of the kills without workers, half with two."""
    import tempfile

    kills, steps = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder), steps)
        expected = whole(job)
        print(json.dumps({str(workers): interrupted(job, expected, kills // 2, workers) for workers in (0, 2)}))


if __name__ == "__main__":
    main()
