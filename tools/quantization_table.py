#!/usr/bin/env python3
"""Perplexity of a model by dtype: files that mamba2 quantises beside those of llama.cpp's quantiser, all evaluated by
mamba2 in the same way.

Needs: pip install llama-cpp-python.  Use: tools/quantization_table.py [options] --text FILE MODEL...
"""

import argparse
import ctypes
import json
import pathlib
import subprocess
import sys
import tempfile

import llama_cpp

OURS = ["f32", "bf16", "q8_0", "q6_k", "q4_k", "q4_0"]
# of llama_ftype; Q4_K_M and Q5_K_M would be the same for Mamba-2, which has none of the tensors that they hold higher
THEIRS = {"q8_0": 7, "q6_k": 18, "q5_k": 16, "q5_0": 8, "q4_k": 14, "q4_0": 2}


def perplexity(arguments, model, text):
    command = [arguments.mamba2, "perplexity", "--model", model, "--file", text, "--context", arguments.context, "--json"]
    if arguments.characters:
        command += ["--characters", arguments.characters]
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.decode())
    return json.loads(done.stdout)["perplexity"]


def quantise(source, target, file_type):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 1
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        sys.exit(f"llama.cpp can't quantise {source}")


def rows(arguments, model, folder):
    """(written by, dtype, file), the f32 one first and kept."""
    exact = folder / "f32.gguf"
    wanted = arguments.dtypes.split(",")
    for dtype in OURS:
        if dtype not in wanted and dtype != "f32":
            continue
        path = folder / f"{dtype}.gguf"
        command = [arguments.mamba2, "convert", model, path, "--format", "gguf", "--dtype", dtype]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        yield "mamba2", dtype, path
    for dtype, file_type in THEIRS.items():
        if dtype not in wanted:
            continue
        path = folder / f"theirs-{dtype}.gguf"
        quantise(exact, path, file_type)
        yield "llama.cpp", dtype, path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--mamba2", default="build/release/bin/mamba2", help="the program")
    parser.add_argument("--dtypes", default=",".join(dict.fromkeys([*OURS, *THEIRS])), help="%(default)s")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--characters", type=int, default=0, help="of each text, from its start; 0: all")
    arguments = parser.parse_args()
    nothing = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(nothing, ctypes.c_void_p(0))
    names = [pathlib.Path(text).stem for text in arguments.text]
    print("| model | written by | dtype | MB | " + " | ".join(f"{name} | change" for name in names) + " |")
    print("|---|---|---|---|" + "---|---|" * len(names))
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            exact = None
            for writer, dtype, path in rows(arguments, model, pathlib.Path(folder)):
                found = [perplexity(arguments, path, text) for text in arguments.text]
                exact = exact or found
                cells = " | ".join(f"{p:.3f} | {100 * (p / e - 1):+.3f} %" for p, e in zip(found, exact))
                megabytes = path.stat().st_size / 1e6
                print(f"| {pathlib.Path(model).name} | {writer} | {dtype} | {megabytes:.2f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
