"""Try passes on random graphs, and count what came of it: equal, sane, refused by name, wrong, internal errors.

    python benchmarks/random_graphs.py [--runs 10000] [--seed 0] [--seconds N] [--jobs 2] [--chain PruneChannels,Shrink]
    python benchmarks/random_graphs.py --only SEED [--chain PruneChannels,Shrink] [--reduce] [--save FOLDER]

Each run is a graph and a chain of passes, both drawn from the run's seed. It has a process of its own kind: one that
dies, hangs or takes too much memory is counted and named, and the rest goes on. Exit status 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import re
import resource
import sys
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import onnx

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

TIMEOUT = 60.0
MEMORY = 6 << 30
EXPLAINED = 25
"""Why a result is not faster is looked into once in so many runs: it takes most of the time."""
BAD = ("wrong", "internal error", "killed", "generator")


def prepare() -> None:
    """Keep warnings and onnxruntime quiet."""
    import warnings

    import onnxruntime

    warnings.simplefilter("ignore")
    onnxruntime.set_default_logger_severity(4)


def run(seed: int, names: str = "", skip: frozenset[int] = frozenset()) -> dict[str, Any]:
    """Run one seed and say what came of it, as plain data."""
    from corpus.varied import varied_graph
    from corpus.varied.chains import named_chain, random_chain, written
    from corpus.varied.judge import judge, untimed

    chain = named_chain(names) if names else random_chain(seed)
    answer = {"seed": seed, "chain": written(chain)}
    try:
        varied = varied_graph(seed, skip)
    except Exception as error:  # noqa: BLE001 - counted
        return answer | {"kind": "generator", "why": " ".join(str(error).split())[:200], "steps": ()}
    with untimed(explained=seed % EXPLAINED == 0):
        verdict = judge(varied, chain, seed=seed)
    return answer | {"kind": verdict.kind, "why": verdict.why, "steps": varied.steps}


def work(pipe: Connection, names: str) -> None:
    """Answer seeds until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    prepare()
    while (seed := pipe.recv()) is not None:
        pipe.send(run(seed, names))


class Worker:
    """A process that answers seeds, and when it got the one it has."""

    def __init__(self, names: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=work, args=(other, names), daemon=True)
        self._process.start()
        other.close()
        self.seed, self.since = -1, time.monotonic()

    def give(self, seed: int) -> None:
        """Hand it a seed."""
        self.seed, self.since = seed, time.monotonic()
        self.pipe.send(seed)

    @property
    def late(self) -> bool:
        """Whether it has had its seed for too long."""
        return time.monotonic() - self.since > TIMEOUT

    def end(self) -> int | None:
        """Kill it, and return the exit code if it had died by itself."""
        self._process.join(0.2)
        code = self._process.exitcode
        self._process.kill()
        self._process.join()
        return code


def answers(seeds: range, names: str, jobs: int, seconds: float) -> Any:
    """Yield what came of each seed, in the order in which they end."""
    todo, end = iter(seeds), time.monotonic() + seconds
    workers: dict[Connection, Worker] = {}

    def start(worker: Worker | None = None) -> None:
        seed = next(todo, None) if time.monotonic() < end else None
        if seed is not None:
            worker = worker or Worker(names)
            workers[worker.pipe] = worker
            worker.give(seed)
        elif worker is not None:
            worker.end()

    for _ in range(jobs):
        start()
    while workers:
        for pipe in wait(list(workers), timeout=1.0):
            worker = workers.pop(pipe)  # type: ignore[index,arg-type]
            try:
                answer = pipe.recv()  # type: ignore[union-attr]
            except EOFError:
                yield killed(worker.seed, f"the process died, exit code {worker.end()}")
                start()
            else:
                yield answer
                start(worker)
        for pipe, worker in list(workers.items()):
            if worker.late:
                del workers[pipe]
                worker.end()
                yield killed(worker.seed, f"still running after {TIMEOUT:.0f} s")
                start()


def killed(seed: int, why: str) -> dict[str, Any]:
    return {"seed": seed, "chain": "", "kind": "killed", "why": why, "steps": ()}


def reason(why: str) -> str:
    """Shorten a message to what it has in common with others of its kind."""
    why = re.sub(r"'[^']*'|\"[^\"]*\"|\[[^]]*\]|\([^)]*\)", "…", why)
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "#", why)[:120]


def reduced(seed: int, names: str) -> frozenset[int]:
    """Leave out steps as long as the same kind of failure stays."""
    first = run(seed, names)
    skip: frozenset[int] = frozenset()
    for number in range(len(first["steps"])):
        found = run(seed, names, skip | {number})
        if found["kind"] == first["kind"] and reason(found["why"])[:40] == reason(first["why"])[:40]:
            skip |= {number}
    return skip


def replay(options: argparse.Namespace) -> int:
    """Run one seed here, print what came of it, and perhaps save its model."""
    from corpus.varied import varied_graph

    prepare()
    skip = reduced(options.only, options.chain) if options.reduce else frozenset()
    found = run(options.only, options.chain, skip)
    print(f"{found['kind']}: {found['why']}\nchain: {found['chain']}")
    print("steps:", ", ".join(step for number, step in enumerate(found["steps"]) if number not in skip))
    if options.save:
        path = Path(options.save, f"{options.only}.onnx")
        onnx.save(varied_graph(options.only, skip).model, path)
        print(f"saved {path}")
    return int(found["kind"] in BAD)


def main() -> int:
    """Print counts, the reasons of refusals, and a line for each finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first run's seed; the others follow")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no run after so many")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--log", help="write a line of JSON for each run")
    parser.add_argument("--only", type=int, help="replay one seed")
    parser.add_argument(
        "--chain", default="", help="these passes for every run, by class, such as PruneChannels,Shrink"
    )
    parser.add_argument("--reduce", action="store_true", help="with --only: leave out steps while it still fails")
    parser.add_argument("--save", help="with --only: a folder for the model")
    options = parser.parse_args()
    if options.only is not None:
        return replay(options)
    counts: collections.Counter[str] = collections.Counter()
    reasons: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    log = open(options.log, "w") if options.log else None  # noqa: SIM115, PTH123
    start = time.monotonic()
    for found in answers(
        range(options.seed, options.seed + options.runs), options.chain, options.jobs, options.seconds
    ):
        kind = found["kind"]
        counts[kind] += 1
        if log:
            print(json.dumps(found), file=log, flush=True)
        if kind in BAD:
            print(f"{kind}: --only {found['seed']}: {found['chain']}: {found['why']}", flush=True)
        elif kind not in ("equal", "sane"):
            reasons[kind][reason(found["why"])] += 1
    runs = sum(counts.values())
    for kind, found in reasons.items():
        print(f"\n{kind}:")
        for why, count in found.most_common(30):
            print(f"{count:6}  {why}")
    accepted = 1 - (counts["generator"] + counts["unstable"]) / max(runs, 1)
    print(f"\n{runs} runs in {time.monotonic() - start:.0f} s; {accepted:.1%} of the graphs are accepted and stable")
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    return int(any(counts[kind] for kind in BAD))


if __name__ == "__main__":
    sys.exit(main())
