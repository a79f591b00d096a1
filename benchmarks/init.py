"""Time and memory of an initialisation, ours beside the floor, the published route and PEFT's methods, in one run.

Every case runs in a process of its own, which loads the model, warms up on the smallest batch and is then timed, so
that its peak memory is its own. The cases run in turn, `--repeats`
times; ratios compare medians.

floor       one forward and backward over the same batches without weight gradients, and one decomposition per weight:
            the least that any method of this kind must do
resident    ours: the data pass, the decompositions (kept on disk, as `farss init` keeps them), the plan
streamed    ours block by block from the disk, hidden states on disk; streamed-memory keeps these in memory
full        the published route, literally: both full covariances of every module, weight gradients on, one SVD each
full-padded the same on sequences padded to `--max-length`, two at a time, padding counted, as published
pissa       PEFT's PiSSA (no data); pissa-niter its randomised one with 16 iterations
corda       PEFT's CorDA over the same rows

    python benchmarks/init.py --model smollm2-135m --task gsm8k --data-dir DATA --rows 256 --out init.json
    python benchmarks/init.py --task gsm8k --data-dir DATA --repeats 1 --cases floor resident full full-padded corda
    python benchmarks/init.py --shape llama2-7b --layers 2 --cases resident streamed --rows 8
    python benchmarks/init.py --shape sheared-1.3b --layers 4 8 16 --cases streamed streamed-memory --dtype bfloat16
        --rows 16 --repeats 1 --out depth.json   (one line; `benchmarks/depth.py depth.json` draws it)
    python benchmarks/init.py --shape llama2-7b --device cuda --dtype bfloat16 --rows 256 --route auto --repeats 1
        --cases resident streamed pissa pissa-niter corda --out gpu.json   (one line; memory is the GPU's)
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, get_args

import psutil
import torch
from shapes import SHAPES, random_examples, random_model
from torch import Tensor, nn

from farss.config import MOST_ROWS, DataConfig, Device, FarssConfig, ModelConfig, Recipe
from farss.datasets.formats import formatter
from farss.datasets.resolve import load_rows
from farss.experiment.environment import device, peak_bytes, versions
from farss.experiment.initialisation.outlook import for_method, forecast, outlook
from farss.experiment.initialisation.streaming import StreamedModel
from farss.maths.choice import Choice, named_route
from farss.maths.spectrum import decompose
from farss.methods import get_method
from farss.methods.base import Evidence
from farss.methods.compat import PUBLISHED_BATCH_SIZE
from farss.model.calibration import Batch, Example, batches, encode_rows, pad_token
from farss.model.checkpoint import load_tokenizer
from farss.model.devices import place
from farss.model.loss import SupervisedLoss
from farss.model.sources import LoadedModel, cache_root, load, resolve
from farss.model.spectra import SpectrumCache
from farss.model.targets import Target, find_targets, weight_matrix
from farss.statistics.curvature import collect
from farss.statistics.observing import reading_only
from farss.storage import write_json

CASES = ("floor", "resident", "streamed", "streamed-memory", "full", "full-padded", "pissa", "pissa-niter", "corda")
OURS = ("floor", "resident", "streamed")
"""What runs unless other cases are named: the published route takes hours where ours takes minutes."""

OURS_FIRST = ("resident", "streamed", "streamed-memory")
"""Ratios are to the first of these that runs, or else to the first case."""

ANNOUNCED = ("resident", "streamed")
"""What `farss init` predicts time and memory of."""

MEMORY_SAMPLING_SECONDS = 0.02
NITER = 16


@dataclass(frozen=True)
class Task:
    """What one case is run on.

    Attributes:
        model: name or folder.
        dtype: of the model.
        examples: calibration rows as token ids.
        batch_tokens: padded tokens of a batch.
        max_length: width that the published route pads to.
        rank: R.
        threads: processor threads; None for torch's choice.
        device: where the model is computed, as `--device` of `farss`.
        route: by which the floor and ours decompose weights, as `init.route`.
    """

    model: str
    dtype: str
    examples: list[Example]
    batch_tokens: int
    max_length: int
    rank: int
    threads: int | None
    device: Device = "cpu"
    route: Choice = "gram"

    def queue(self, pad_id: int, *, padded: bool = False) -> list[Batch]:
        """The batches; if `padded`, as the published code makes them: two rows of one width each."""
        if padded:
            tokens = PUBLISHED_BATCH_SIZE * self.max_length
            return batches(self.examples, batch_tokens=tokens, pad_id=pad_id, pad_to=self.max_length)
        return batches(self.examples, batch_tokens=self.batch_tokens, pad_id=pad_id)

    @property
    def config(self) -> FarssConfig:
        """Ranks 1/50/64 of shallow modules, R of deep ones, or what fits a smaller R."""
        return FarssConfig(rank=self.rank, r_avg=min(50, self.rank), r_max=min(64, self.rank), route=self.route)


class Clock:
    """Wall and processor seconds of named steps, and how far memory was above its start while they ran.

    Memory is that of a GPU where one computes, else of the process.
    """

    def __init__(self, task: Task) -> None:
        self.steps: dict[str, dict[str, float]] = {}
        self.notes: dict[str, Any] = {}
        self.process, self.on = psutil.Process(), place(task.device)
        self.on_gpu = self.on.type == "cuda"
        self.start = self.step_peak = self._memory()
        self.peak = torch.cuda.max_memory_allocated(self.on) if self.on_gpu else self.start  # loading counts
        self.done = threading.Event()
        self.sampler = threading.Thread(target=self._sample, daemon=True)
        self.sampler.start()

    def _sample(self) -> None:
        while not self.on_gpu and not self.done.wait(MEMORY_SAMPLING_SECONDS):  # PyTorch keeps the peak of a GPU
            now = self._memory()
            self.peak, self.step_peak = max(self.peak, now), max(self.step_peak, now)

    def step(self, name: str, act: Callable[[], Any]) -> Any:
        """What `act` returns; its cost is noted."""
        if self.on_gpu:
            torch.cuda.synchronize(self.on)
            torch.cuda.reset_peak_memory_stats(self.on)
        self.step_peak = self._memory()
        wall, processor = time.perf_counter(), time.process_time()
        result = act()
        if self.on_gpu:
            torch.cuda.synchronize(self.on)
            self.step_peak = torch.cuda.max_memory_allocated(self.on)
            self.peak = max(self.peak, self.step_peak)
        self.steps[name] = {
            "wall": time.perf_counter() - wall,
            "processor": time.process_time() - processor,
            "growth_bytes": self.step_peak - self.start,
        }
        return result

    def account(self) -> dict[str, Any]:
        """Everything noted, in seconds and bytes."""
        self.done.set()
        self.sampler.join()
        total = {part: sum(step[part] for step in self.steps.values()) for part in ("wall", "processor")}
        memory = {"growth_bytes": self.peak - self.start, "peak_bytes": self.peak if self.on_gpu else peak_bytes()}
        return {"steps": self.steps, **total, **memory, **self.notes}

    def _memory(self) -> int:
        return torch.cuda.memory_allocated(self.on) if self.on_gpu else self.process.memory_info().rss


def opened(task: Task) -> tuple[LoadedModel, list[Target], list[Batch]]:
    """The model in memory, its targets and the batches."""
    on = place(task.device)
    loaded = load(ModelConfig(name=task.model), dtype=task.dtype, device=on)
    queue = [batch.to(on) for batch in task.queue(pad_token(loaded.tokenizer))]
    return loaded, find_targets(loaded.model), queue


def bare_pass(model: nn.Module, queue: Sequence[Batch]) -> None:
    """One forward and backward per batch, without weight gradients."""
    with reading_only(model), SupervisedLoss(model, "token_sum", "empirical", seed=0).reading() as reader:
        for batch in queue:
            reader.loss(batch).backward()
            reader.gradient_is_finite()


def floor(task: Task) -> Clock:
    """The least work."""
    loaded, targets, queue = opened(task)
    bare_pass(loaded.model, queue[-1:])
    routes = {target.name: named_route(task.route, weight_matrix(target)) for target in targets}
    clock = Clock(task)
    clock.step("pass", lambda: bare_pass(loaded.model, queue))
    clock.step("decompositions", lambda: [decompose(weight_matrix(t), routes[t.name]).sigma for t in targets])
    return clock


def resident(task: Task) -> Clock:
    """Ours, the model in memory."""
    loaded, targets, queue = opened(task)
    bare_pass(loaded.model, queue[-1:])
    with tempfile.TemporaryDirectory() as work:
        clock, spectra = Clock(task), SpectrumCache(work)
        curvature = clock.step("pass", lambda: collect(loaded.model, queue, targets))
        clock.step("decompositions", lambda: [spectra.get(target, task.route).route for target in targets])
        evidence = Evidence(
            loaded.fingerprint, lambda target: spectra.get(target, task.route), {"curvature": curvature}
        )
        clock.step("plan", lambda: get_method("farss").plan(targets, evidence, task.config))
        clock.notes["statistics_bytes"] = curvature.bytes
    return clock


def opened_streamed(task: Task) -> StreamedModel:
    """The model on disk."""
    return StreamedModel(ModelConfig(name=task.model), dtype=task.dtype, device=place(task.device))


def streamed(task: Task, *, states_on_disk: bool = True) -> Clock:
    """Ours, block by block."""
    with tempfile.TemporaryDirectory() as work:
        clock = Clock(task)
        source = clock.step("open", lambda: opened_streamed(task))
        queue, spectra = task.queue(pad_token(source.tokenizer)), SpectrumCache(Path(work, "spectra"))
        place = Path(work, "walk") if states_on_disk else None
        evidence = clock.step("walk", lambda: source.evidence("farss", queue, task.config, spectra, work=place))
        targets = source.targets(task.config)
        plan = clock.step("plan", lambda: get_method("farss").plan(targets, evidence, task.config))
        clock.step("factors", lambda: source.start_factors(plan, spectra))
        hidden, width = source.model.config.hidden_size, source.weights.dtype.itemsize
        clock.notes["boundary_bytes"] = sum(batch.input_ids.numel() for batch in queue) * hidden * width
        clock.notes["weights_bytes"] = sum(p.numel() for p in source.model.parameters()) * width
    return clock


def predicted(name: str, task: Task) -> dict[str, float]:
    """What `farss init` would announce for this work: bytes and seconds."""
    engine = "resident" if name == "resident" else "streamed"
    queue = task.queue(pad_id=0)
    recipe = Recipe(
        "benchmark", model=ModelConfig(name=task.model, dtype=task.dtype), init=task.config, device=task.device
    )
    seen = for_method(outlook(recipe, queue), "farss", task.config)
    tokens = sum(len(example) for example in task.examples)
    found = forecast(seen, engine, tokens, decomposes=True, route=task.route)
    assert found.seconds is not None, "tokens are read and weights decomposed"
    return {"predicted_bytes": found.peak_bytes, "predicted_seconds": found.seconds}


def full(task: Task, *, padded: bool = False) -> Clock:
    """The published route."""
    loaded, targets, _ = opened(task)
    queue = [batch.to(place(task.device)) for batch in task.queue(pad_token(loaded.tokenizer), padded=padded)]
    clock = Clock(task)
    covariances = clock.step("pass", lambda: full_covariances(loaded.model, targets, queue))
    clock.step("scores", lambda: [literal_scores(weight_matrix(t), *covariances[t.name]) for t in targets])
    clock.notes["statistics_bytes"] = sum(c.numel() * c.element_size() for pair in covariances.values() for c in pair)
    return clock


def full_covariances(
    model: nn.Module, targets: Sequence[Target], queue: Sequence[Batch]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Input and output-gradient covariance of every module, [n, n] and [m, m] float32, by hooks."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for target in targets:
        m, n = target.shape
        on = weight_matrix(target).device
        found[target.name] = torch.zeros(n, n, device=on), torch.zeros(m, m, device=on)

    def reads(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            rows = args[0].detach().flatten(0, -2).float()
            found[name][0].addmm_(rows.T, rows)

        return hook

    def gets(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, gradients: tuple[Tensor, ...]) -> None:
            rows = gradients[0].detach().flatten(0, -2).float()
            found[name][1].addmm_(rows.T, rows)

        return hook

    handles = [t.module.register_forward_hook(reads(t.name)) for t in targets]
    handles += [t.module.register_full_backward_hook(gets(t.name)) for t in targets]
    for batch in queue:
        model.zero_grad(set_to_none=True)
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss.backward()
    for handle in handles:
        handle.remove()
    model.zero_grad(set_to_none=True)
    return found


def literal_scores(weight: Tensor, inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [k] and importance of one module, by the formulas as printed (Eq. 8, 13-15)."""
    weight = weight.float()
    left, sigma, right = torch.linalg.svd(weight, full_matrices=False)
    lam, gam = (right @ inputs @ right.T).diagonal(), (left.T @ gradients @ left).diagonal()
    return sigma**2 * lam * gam, torch.trace(gradients @ weight @ inputs @ weight.T) / weight.numel()


def peft_method(task: Task, initialisation: str) -> Clock:
    """A method of PEFT, at rank R on the same modules."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    loaded, targets, _ = opened(task)
    names = [target.name for target in targets if min(target.shape) >= task.rank]
    more = {"corda_config": CordaConfig(corda_method="kpm")} if initialisation == "corda" else {}
    config = LoraConfig(
        r=task.rank, lora_alpha=task.rank, target_modules=names, init_lora_weights=initialisation, **more
    )

    def run() -> None:
        with torch.no_grad():
            for example in task.examples:  # PEFT's hook takes one sequence at a time
                ids = torch.tensor([[*example.prompt_ids, *example.response_ids]])
                loaded.model(input_ids=ids.to(place(task.device)))

    clock = Clock(task)
    if initialisation == "corda":
        clock.step("covariances", lambda: preprocess_corda(loaded.model, config, run_model=run))
    clock.step("wrap", lambda: get_peft_model(loaded.model, config))
    clock.notes["modules"] = len(names)
    return clock


def case(name: str, task: Task) -> Clock:
    """Run one case in this process."""
    acts: dict[str, Callable[[], Clock]] = {
        "floor": lambda: floor(task),
        "resident": lambda: resident(task),
        "streamed": lambda: streamed(task),
        "streamed-memory": lambda: streamed(task, states_on_disk=False),
        "full": lambda: full(task),
        "full-padded": lambda: full(task, padded=True),
        "pissa": lambda: peft_method(task, "pissa"),
        "pissa-niter": lambda: peft_method(task, f"pissa_niter_{NITER}"),
        "corda": lambda: peft_method(task, "corda"),
    }
    return acts[name]()


def in_process(name: str, task: Task) -> dict[str, Any]:
    """Run one case in a process of its own and return its account."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, task, sender))
    process.start()
    sender.close()
    try:
        account = receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"case {name} ended with code {process.exitcode}") from None
    process.join()
    return account


def _child(name: str, task: Task, sender: Connection) -> None:
    if task.threads:
        torch.set_num_threads(task.threads)
    sender.send(case(name, task).account())


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=ModelConfig().name)
    parser.add_argument("--shape", choices=sorted(SHAPES), help="a model of this shape with random weights instead")
    parser.add_argument("--layers", type=int, nargs="+", help="numbers of layers of --shape, one after the other")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "auto"])
    parser.add_argument("--task", default=DataConfig().task)
    parser.add_argument("--data-dir")
    parser.add_argument("--rows", type=int, default=MOST_ROWS)
    parser.add_argument("--length", type=int, default=DataConfig().max_length, help="tokens per row with --shape")
    parser.add_argument("--max-length", type=int, default=DataConfig().max_length)
    parser.add_argument("--batch-tokens", type=int, default=FarssConfig().batch_tokens)
    parser.add_argument("--rank", type=int, default=FarssConfig().rank)
    parser.add_argument("--route", default=FarssConfig().route, choices=get_args(Choice), help="of decompositions")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(OURS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="processor threads; torch's choice by default")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args()


def task_of(options: argparse.Namespace, layers: int | None) -> Task:
    """The named model with rows of the named task, or a random model with random rows."""
    if options.shape:
        folder = random_model(options.shape, layers or SHAPES[options.shape]["num_hidden_layers"], cache_root())
        model, examples = str(folder), random_examples(options.rows, options.length)
    else:
        model, tokenizer = options.model, load_tokenizer(resolve(options.model))
        rows = load_rows(options.task, "train", data_dir=options.data_dir, limit=options.rows)
        examples = encode_rows(rows, tokenizer, formatter(options.task, "auto", tokenizer), options.max_length)
    limits = options.batch_tokens, options.max_length, options.rank, options.threads
    return Task(model, options.dtype, examples, *limits, device=options.device, route=options.route)


def measure(options: argparse.Namespace, task: Task) -> dict[str, Any]:
    """The accounts of all cases and repeats, their medians, and the ratios of every case to one."""
    accounts: dict[str, list[dict[str, Any]]] = {name: [] for name in options.cases}
    for number in range(options.repeats):
        for name in options.cases:
            announced = predicted(name, task) if name in ANNOUNCED else {}
            accounts[name].append(in_process(name, task) | announced)
            print(f"repeat {number + 1}, {name}: {accounts[name][-1]['wall']:.1f} s", flush=True)
    medians = {
        name: {
            key: statistics.median(one[key] for one in rows)
            for key in ("wall", "processor", "growth_bytes", "peak_bytes")
        }
        for name, rows in accounts.items()
    }
    ours = next(name for name in (*OURS_FIRST, *medians) if name in medians)
    ratios = {
        name: {part: row[part] / medians[ours][part] for part in ("wall", "processor")} for name, row in medians.items()
    }
    return {"medians": medians, "ratio_to": ours, "ratios": ratios, "accounts": accounts}


def show(found: dict[str, Any]) -> None:
    """Print medians and ratios."""
    print(
        f"\n{'case':14}{'wall s':>10}{'processor s':>14}{'growth MB':>12}{'peak MB':>10}{'x ' + found['ratio_to']:>14}"
    )
    for name, row in found["medians"].items():
        sizes = f"{row['growth_bytes'] / 1e6:12.0f}{row['peak_bytes'] / 1e6:10.0f}"
        ratio = found["ratios"][name]["wall"]
        print(f"{name:14}{row['wall']:10.2f}{row['processor']:14.2f}{sizes}{ratio:14.2f}")
        for step, cost in found["accounts"][name][0]["steps"].items():
            print(f"  {step:12}{cost['wall']:10.2f}{cost['processor']:14.2f}{cost['growth_bytes'] / 1e6:12.0f}")
        if kept := found["accounts"][name][0].get("statistics_bytes"):
            print(f"  statistics {kept / 1e6:.0f} MB")
        if name in ANNOUNCED:
            first = found["accounts"][name][0]
            seconds, size = first["predicted_seconds"], first["predicted_bytes"]
            print(f"  predicted {seconds:.1f} s ({seconds / first['wall']:.2f} of it), {size / 1e6:.0f} MB peak "
                  f"({size / first['peak_bytes']:.2f})")  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)  # predictions measure this process
    report: dict[str, Any] = {
        "options": {key: value for key, value in vars(options).items() if key not in ("data_dir", "out")},
        "device": device(options.device)
        | {
            "threads": torch.get_num_threads(),
            "allocator": Path(os.environ.get("LD_PRELOAD", "the C library's")).name,
        },
        "versions": versions(),
        "runs": [],
    }
    print(report["device"], report["versions"])
    for layers in options.layers or [None]:
        task = task_of(options, layers)
        tokens = sum(len(example) for example in task.examples)
        print(f"\n{options.shape or options.model}{f', {layers} layers' if layers else ''}: "
              f"{len(task.examples)} rows, {tokens:,} tokens, {task.dtype}")  # fmt: skip
        found = measure(options, task)
        show(found)
        report["runs"].append({"layers": layers, "rows": len(task.examples), "tokens": tokens, **found})
        if options.out:  # after every depth: the next may take hours
            write_json(options.out, report)
            print(f"figures in {options.out}")


if __name__ == "__main__":
    main()
