#!/usr/bin/env python3
"""Compares mamba2.cpp with Hugging Face's transformers: both read the same converted checkpoint.

Usage: check_transformers.py [--mamba2 BINARY] [--tolerance X] MODEL...

For each MODEL (a folder in any dialect that the merged mamba2 class can hold) `mamba2 convert` writes a folder in
Hugging Face's form, transformers loads it in float32 and computes logits on the CPU, and `mamba2 forward` computes them
from MODEL itself. Prints a Markdown table; exits with 1 where the largest difference is over --tolerance times the
largest logit, or where transformers reports weights that it missed or did not use.

Models with n_groups > 1 are run with --gated-norm ungrouped, which is what transformers computes.
Needs the packages torch, transformers and safetensors.
"""

import argparse
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKENS = 96


def mamba2(binary: str, *arguments: str) -> None:
    subprocess.run([binary, *arguments], check=True, stdout=subprocess.DEVNULL)


def input_ids(vocab_size: int) -> list[int]:
    """Spread over the vocabulary, the same on every machine."""
    return [(7919 * i * i + 104729 * i + 17) % vocab_size for i in range(TOKENS)]


def difference(binary: str, model: pathlib.Path, folder: pathlib.Path) -> dict:
    """Of the logits, with how transformers took the weights."""
    saved = folder / "saved"
    mamba2(binary, "convert", str(model), str(saved))
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        saved, dtype=torch.float32, output_loading_info=True
    )
    ids = input_ids(theirs.config.vocab_size)
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor([ids])).logits

    request, answer = folder / "input.json", folder / "output.safetensors"
    request.write_text(json.dumps({"input_ids": [ids]}))
    norm = "ungrouped" if theirs.config.n_groups > 1 else "grouped"
    mamba2(binary, "forward", "--model", str(model), "--device", "reference", "--gated-norm", norm,
           "--input", str(request), "--output", str(answer))
    ours = load_file(answer)["logits"]
    unused = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    return {
        "model": model.name,
        "norm": norm,
        "largest": expected.abs().max().item(),
        "difference": (ours - expected).abs().max().item(),
        "unused": [name for name in unused if name != "lm_head.weight" or not theirs.config.tie_word_embeddings],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mamba2", default=str(ROOT / "build/release/bin/mamba2"), help="the binary to check")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="of the largest logit")
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, float32 on the CPU, {TOKENS} tokens, "
          f"{datetime.date.today()}\n")
    print("| model | gated norm | largest logit | largest difference | relative | |")
    print("|---|---|---|---|---|---|")
    wrong = False
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            row = difference(arguments.mamba2, model.resolve(), pathlib.Path(folder))
        relative = row["difference"] / row["largest"]
        fits = relative <= arguments.tolerance and not row["unused"]
        wrong = wrong or not fits
        verdict = "ok" if fits else "differs" + "".join(f", `{name}`" for name in row["unused"])
        print(f"| {row['model']} | {row['norm']} | {row['largest']:.4f} | {row['difference']:.1e} | {relative:.1e} "
              f"| {verdict} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
