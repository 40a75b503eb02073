"""Converting, loading and batching: this project beside stock RecBole, on generated MovieLens files.

Every step runs in a process of its own, so that its peak memory is its own. Ratios are stock / ours (above 1: we are
better) and are printed only if both sides gave the same samples in the same order.

    python benchmarks/data_pipeline.py --output data_pipeline.json     # MovieLens 25M's shape: about 15 minutes
    python benchmarks/data_pipeline.py --quick                         # a tenth of everything
    python benchmarks/data_pipeline.py --stock_minutes 15              # and see how far stock RecBole gets with it
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LARGE = {"users": 162_541, "films": 62_423, "ratings": 25_000_095}  # MovieLens 25M
MEDIUM = {"users": 6_040, "films": 3_883, "ratings": 1_000_209}     # MovieLens 1M
NAME = "ml-25m"  # both sizes have its columns and settings
GB = 2**30


# ------------------------------------------------------------------------------- steps, each in its own process

def load(kind: str, data_path: str):
    """The data set of SASRec on the CPU, split: by our class or by RecBole's, from the same files and settings."""
    from recbole.data.dataset import SequentialDataset

    from recbole_genrec.config import Config
    from recbole_genrec.data.dataset import GenRecDataset

    config = Config("SASRec", NAME, config_dict={"data_path": data_path, "gpu_id": "", "show_progress": False})
    before, began = peak_memory(), time.perf_counter()
    dataset = (GenRecDataset if kind == "ours" else SequentialDataset)(config)
    parts = dataset.build()
    return config, dataset, parts, {"seconds": time.perf_counter() - began,
                                    "memory_gb": (peak_memory() - before) / GB, "peak_gb": peak_memory() / GB}


def samples(kind: str, data_path: str) -> dict:
    """Load and window; a hash of every column of every sample, in order, made after the measurement."""
    import torch

    _, _, parts, measured = load(kind, data_path)
    digests: dict[str, hashlib._Hash] = {}
    for part in parts:
        for rows in torch.arange(len(part)).split(1 << 14):
            batch = part.__getitem__(rows, join=False)
            for field in ("user_id", "item_id", "item_length", "item_id_list", "position_list", "timestamp_list"):
                value = batch[field].float() if batch[field].is_floating_point() else batch[field]
                digests.setdefault(field, hashlib.sha256()).update(value.numpy().tobytes())
    return {**measured, "samples": [len(part) for part in parts],
            "digest": {field: digest.hexdigest() for field, digest in digests.items()}}


def everything(kind: str, data_path: str) -> dict:
    """What a run does before it trains: load, window, split, fingerprints, loaders; then a hundred batches."""
    from recbole_genrec.config import Config
    from recbole_genrec.data.loading import Data

    config = Config("SASRec", NAME, config_dict={"data_path": data_path, "gpu_id": "", "show_progress": False})
    before, began = peak_memory(), time.perf_counter()
    data = Data.load(config)
    train, _, _ = data.loaders(config)
    loaded = time.perf_counter() - began
    for number, _ in enumerate(train, 1):
        if number == 100:
            break
    return {"seconds": loaded, "samples": [len(part) for part in data.parts], "peak_gb": peak_memory() / GB,
            "memory_gb": (peak_memory() - before) / GB}


def epoch(kind: str, data_path: str) -> dict:
    """One epoch of training batches from both classes, batch by batch in turn, each compared."""
    import torch
    from recbole.data.utils import create_samplers, get_dataloader

    loaders = {}
    for side in ("ours", "stock"):
        config, dataset, parts, _ = load(side, data_path)
        sampler, _, _ = create_samplers(config, dataset, parts)
        loaders[side] = iter(get_dataloader(config, "train")(config, parts[0], sampler, shuffle=True))
    seconds, batches = dict.fromkeys(loaders, 0.0), 0
    while True:
        pair = {}
        for side in sorted(loaders, reverse=batches % 2 == 1):  # in turn, so that a busy moment hits both
            began = time.perf_counter()
            pair[side] = next(loaders[side], None)
            seconds[side] += time.perf_counter() - began
        if pair["ours"] is None or pair["stock"] is None:
            return {"same": pair["ours"] is pair["stock"], "batches": batches, **seconds}
        for field in pair["stock"]:
            mine, theirs = pair["ours"][field], pair["stock"][field]
            if not torch.equal(mine.to(theirs.dtype), theirs):
                return {"same": False, "batches": batches, "field": field, **seconds}
        batches += 1


def convert(raw: str, output: str) -> dict:
    """The converter, from raw files to atomic files."""
    from dataset_converters.__main__ import main

    before, began = peak_memory(), time.perf_counter()
    if main(["movielens", "--input", raw, "--output", output, "--name", NAME]):
        raise SystemExit(1)
    return {"seconds": time.perf_counter() - began, "peak_gb": peak_memory() / GB,
            "memory_gb": (peak_memory() - before) / GB}


STEPS = {"convert": convert, "samples": samples, "everything": everything, "epoch": epoch}


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ------------------------------------------------------------------------------------------------- the benchmark

def run(step: str, *arguments: str | Path) -> dict:
    """A step's result. Exits if it fails."""
    process = subprocess.run([sys.executable, __file__, "--step", step, *map(str, arguments)],
                             stdout=subprocess.PIPE, text=True)
    if process.returncode:
        raise SystemExit(f"step {step} failed: {process.stdout[-500:]}")
    return json.loads(process.stdout.splitlines()[-1])


def kilobytes(path: str, field: str) -> int:
    """A field of a /proc file that holds ``field: N kB`` lines; 0 where it has none (the process is ending)."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field + ":")), 0)


def stock_alone(data_path: Path, minutes: float) -> str:
    """How far stock RecBole gets with the large data set, in words; stopped before it takes the last 1.5 GB."""
    command = [sys.executable, __file__, "--step", "samples", "stock", str(data_path)]
    process, began, peak, spare = subprocess.Popen(command, stdout=subprocess.DEVNULL), time.time(), 0, True
    while process.poll() is None and spare and time.time() - began < 60 * minutes:
        time.sleep(0.5)
        peak = max(peak, kilobytes(f"/proc/{process.pid}/status", "VmHWM") * 1024)
        spare = kilobytes("/proc/meminfo", "MemAvailable") * 1024 > 1.5 * GB
    ended = process.poll()
    process.kill()
    how = "finished" if ended == 0 else f"failed (exit code {ended})" if ended is not None else \
        "not done" if spare else "stopped: all memory taken"
    return f"{how} after {(time.time() - began) / 60:.1f} minutes, {peak / GB:.1f} GB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--work_dir", type=Path, help="keep the generated files here and use them again")
    parser.add_argument("--stock_minutes", type=float, default=0, help="also give stock RecBole the large data set")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step[0]](*options.step[1:])))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return compare(options, options.work_dir or Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> int:
    """Run all steps, print the table, write the numbers."""
    shrink = 10 if options.quick else 1
    numbers: dict[str, float | str] = {}
    for size, shape in (("large", LARGE), ("medium", MEDIUM)):
        shape = {name: count // shrink for name, count in shape.items()}
        raw = folder / f"{size}-{shape['ratings']}" / "raw"
        if not (raw / "movies.csv").exists():
            print(f"generating {shape['ratings']:,} ratings", file=sys.stderr)
            subprocess.run([sys.executable, Path(__file__).with_name("movielens_like.py"), raw,
                            *map(str, shape.values())], check=True)
        shutil.rmtree(raw.parent / NAME, ignore_errors=True)
        done = run("convert", raw, raw.parent)
        if size == "large":
            numbers |= {"data.convert_25m_peak_gb": done["peak_gb"], "data.convert_25m_minutes": done["seconds"] / 60}
            done = run("everything", "ours", raw.parent)
            numbers |= {"data.load_25m_peak_gb": done["peak_gb"], "data.load_25m_minutes": done["seconds"] / 60,
                        "data.samples_25m": sum(done["samples"])}
            if options.stock_minutes:
                numbers["data.stock_25m"] = stock_alone(raw.parent, options.stock_minutes)
            continue
        ours, stock = run("samples", "ours", raw.parent), run("samples", "stock", raw.parent)
        if ours["digest"] != stock["digest"]:
            print("the samples differ: no ratio", file=sys.stderr)
            return 1
        batches = run("epoch", "both", raw.parent)
        if not batches["same"]:
            print(f"the batches differ after {batches['batches']}: no ratio", file=sys.stderr)
            return 1
        numbers |= {
            "data.load_1m_time_ratio": stock["seconds"] / ours["seconds"],
            "data.load_1m_memory_ratio": stock["memory_gb"] / ours["memory_gb"],
            "data.batch_rate_ratio": batches["stock"] / batches["ours"],
            "data.load_1m_seconds": ours["seconds"], "data.load_1m_stock_seconds": stock["seconds"],
            "data.load_1m_gb_above_imports": ours["memory_gb"],
            "data.load_1m_stock_gb_above_imports": stock["memory_gb"],
            "data.load_1m_peak_gb": ours["peak_gb"], "data.load_1m_stock_peak_gb": stock["peak_gb"],
            "data.samples_1m": sum(ours["samples"]), "data.batches": batches["batches"],
        }
    numbers = {key: round(value, 3) if isinstance(value, float) else value for key, value in numbers.items()}
    print("\n".join(f"{key:40} {value}" for key, value in numbers.items()))
    if options.output:
        options.output.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
