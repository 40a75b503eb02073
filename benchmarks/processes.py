"""Peak memory of two processes whose backbone is whole in each, against one cut in pieces (``fsdp: true``).

    python benchmarks/processes.py [--layers 12 --width 768] [--output FILE]

A frozen LLaMA of random weights with LoRA is trained for some steps and tested on a few users of ml-100k, by torchrun
on the CPU, both ways. Figures are of the busier process, without what it held before the model: ``standing`` between
two steps, ``peak`` the most in training and testing (activations, the trained part and its optimizer are in it, and
whole in both). Weights are copied off the mapped file first, as a GPU would have them, and freed memory goes back to
the system at once, which a GPU's allocator does in its own way. Losses and lists must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))


def _make_backbone(folder: Path, layers: int, width: int) -> None:
    """A LLaMA folder with a tokenizer of the films' titles, as a hub checkpoint is laid out."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from recbole_genrec.backbone.tokenizer import train_tokenizer
    from recbole_genrec.config import Config
    from recbole_genrec.data.catalogue import Catalogue
    from recbole_genrec.data.loading import Data

    data = Data.load(Config("Pop", "ml-100k", [], {"gpu_id": ""}))
    tokenizer = train_tokenizer([f" {title}" for title in Catalogue.from_dataset(data.dataset).titles[1:]], 2000)
    config = AutoConfig.for_model("llama", hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
                                  num_attention_heads=8, vocab_size=len(tokenizer), max_position_embeddings=1024)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _train_a_little(llm: str, fsdp: bool, output: Path) -> None:
    """What each of the processes does."""
    import torch
    from recbole.utils import init_seed

    from recbole_genrec.config import Config
    from recbole_genrec.data.loading import Data
    from recbole_genrec.evaluation.cost import Peak
    from recbole_genrec.running import parallel
    from recbole_genrec.trainer import GenRecTrainer

    torch.set_num_threads(1)
    config = Config("GenRec", "ml-100k", [], {
        "llm": llm, "fsdp": fsdp, "gpu_id": "", "precision": "fp32", "user_inter_num_interval": "[600,inf)",
        "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 8, "gradient_accumulation_steps": 1, "eval_batch_size": 4,
        "lora_dropout": 0, "epochs": 1, "eval_step": 0, "decode": "beam", "num_beams": 20, "show_progress": False})
    with parallel.together():
        init_seed(config["seed"], True)
        data = Data.load(config)
        before = _resident()
        model = config.model_class(config, data.parts[0])
        for weight in model.parameters():
            weight.data = weight.data.clone()
        if fsdp:
            parallel.cut_frozen(model, model.backbone.layers)
        peak = Peak(config["device"])
        train, _, test = data.loaders(config, model)
        with tempfile.TemporaryDirectory() as folder:
            trainer = GenRecTrainer(config, model, data.dataset, Path(parallel.from_main(folder)))
            trainer.fit(train, verbose=False)
            standing = _resident() - before
            _, users = trainer.test(test, True)
            parallel.gather(None)
        found = parallel.gather((standing, peak.record()["peak_memory_mb"] - before))
        if parallel.is_main():
            standing, most = (max(part) for part in zip(*found))
            weights = sum(weight.numel() for weight in model.parameters()) * 4 / 2**20
            output.write_text(json.dumps({
                "standing": standing, "peak": most, "loss": trainer.curve[-1]["loss"], "weights_mb": weights,
                "seconds": trainer.train_seconds, "lists": users.to_json()}))


def _resident() -> float:
    """MB that this process holds now."""
    line, = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--inner", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inner:
        llm, fsdp, output = arguments.inner
        return _train_a_little(llm, fsdp == "True", Path(output))
    with tempfile.TemporaryDirectory() as folder:
        llm, found = Path(folder) / "llama", {}
        _make_backbone(llm, arguments.layers, arguments.width)
        for fsdp in (False, True):
            output = Path(folder) / f"{fsdp}.json"
            subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                            __file__, "--inner", str(llm), str(fsdp), str(output)], check=True,
                           env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
                                "MALLOC_MMAP_THRESHOLD_": "1000000"})
            found[fsdp] = json.loads(output.read_text())
    whole, pieces = found[False], found[True]
    result = {"layers": arguments.layers, "width": arguments.width, "weights_mb": round(whole["weights_mb"], 1),
              **{f"{name}_mb": {"whole": round(whole[name], 1), "pieces": round(pieces[name], 1),
                                "ratio": round(pieces[name] / whole[name], 3)} for name in ("standing", "peak")},
              "time_ratio": round(pieces["seconds"] / whole["seconds"], 2),
              "same_loss": whole["loss"] == pieces["loss"], "same_lists": whole["lists"] == pieces["lists"]}
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    if not (result["same_loss"] and result["same_lists"]):
        sys.exit("the two do not compute the same")


if __name__ == "__main__":
    main()
