#!/usr/bin/env python3
"""Holds GGUF files against llama.cpp, both ways: what one program writes the other must read and say the same.

For every model and dtype:
  ours     mamba2 convert writes the file; llama.cpp's tokenizer must give the same ids, its logits must differ from
           ours by no more than the dtype's own error, and greedy decoding must give the same tokens for as long as the
           best two logits are further apart than that
  theirs   llama.cpp's quantiser makes the file out of our f32 one; mamba2 must read it and agree in the same way

The error of a dtype is what it changes in our logits against f32 (rms); for f32 and f16, where nothing or little is
lost, it is the rounding of llama.cpp's own sums.

Needs: pip install llama-cpp-python numpy.  Use: tools/check_llama.py [--mamba2 FILE] [--markdown] MODEL...
"""

import argparse
import ctypes
import json
import pathlib
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np

TEXT = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. "
    'She said: "Don\'t you think, Mr. Holmes, that 1,234 pounds\n\n  is -- well -- too much?"\n\tHe laughed.'
)
DTYPES = ["f32", "f16", "bf16", "q8_0", "q6_k", "q4_0", "q4_k"]
# llama.cpp's quantiser's kinds of files: q4_k is its Q4_K_S, which like ours keeps 4 bits for every matrix but the head
FILE_TYPES = {"q8_0": 7, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q4_k": 14, "q5_k": 16, "q6_k": 18}
# relative to the logits' rms: f32 sums in another order; f16 files are multiplied with activations rounded to f16 there
ROUNDING = {"f32": 1e-4, "f16": 5e-3, "bf16": 3e-2}
GREEDY = 32


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr.decode()}")
    return done.stdout.decode()


def read_logits(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])["logits"]
    begin, end = (8 + length + at for at in entry["data_offsets"])
    return np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])[0].astype(np.float64)


class Ours:
    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder

    def logits(self, model, ids):
        source, target = self.folder / "ids.json", self.folder / "out.safetensors"
        source.write_text(json.dumps({"input_ids": [list(ids)]}))
        run(self.binary, "forward", "--model", model, "--input", source, "--output", target)
        return read_logits(target)

    def tokenize(self, model):
        (self.folder / "text").write_text(TEXT)
        lines = (self.folder / "lines.jsonl")
        lines.write_text(json.dumps({"text": TEXT}) + "\n")
        return json.loads(run(self.binary, "tokenize", "--jsonl", "--model", model, "--file", lines))["ids"]


class Theirs:
    """One file in llama.cpp."""

    def __init__(self, path):
        self.llama = llama_cpp.Llama(str(path), n_ctx=1024, n_batch=1024, logits_all=True, verbose=False, n_threads=2)

    def logits(self, ids):
        self.llama.reset()
        self.llama.eval(list(ids))
        return np.array(self.llama.scores[: len(ids)], dtype=np.float64)

    def tokenize(self):
        return self.llama.tokenize(TEXT.encode(), add_bos=False, special=True)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def greedy_agrees(ours, model, theirs, ids, tolerance):
    """Feeds llama.cpp's greedy tokens to both: ours must pick the same unless the two best are closer than the error."""
    sequence = list(ids)
    for _ in range(GREEDY):
        sequence.append(int(np.argmax(theirs.logits(sequence)[-1])))
    logits = ours.logits(model, sequence[:-1])[len(ids) - 1 :]
    same = 0
    for step, row in enumerate(logits):
        chosen = sequence[len(ids) + step]
        if row.max() - row[chosen] > 4 * tolerance:
            return False, same
        same += int(np.argmax(row) == chosen)
    return True, same


def compare(ours, path, dtype, exact, ids):
    """A row of the table, and whether it is as it should be."""
    theirs = Theirs(path)
    a, b = ours.logits(path, ids), theirs.logits(ids)
    size, difference, error = rms(exact), rms(a - b), rms(a - exact)
    allowed = max(error, ROUNDING.get(dtype, 0) * size)
    tokens, greedy = True, "-"
    agrees, same = greedy_agrees(ours, path, theirs, ids[:16], allowed)
    tokens = theirs.tokenize() == list(ids)
    good = difference <= allowed and agrees and tokens and np.isfinite(b).all()
    return [f"{difference / size:.2e}", f"{error / size:.2e}", f"{same}/{GREEDY}", "yes" if tokens else "NO",
            "yes" if good else "NO"], good  # fmt: skip


def quantise(source, target, file_type):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 2
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        sys.exit(f"llama.cpp can't quantise {source}")


def silence():
    @llama_cpp.llama_log_callback
    def nothing(level, text, data):
        pass

    llama_cpp.llama_log_set(nothing, ctypes.c_void_p(0))
    return nothing


def check(ours, model, folder):
    name = pathlib.Path(model).name
    files = {}
    for dtype in DTYPES:
        files[dtype] = folder / f"{name}-{dtype}.gguf"
        run(ours.binary, "convert", model, files[dtype], "--format", "gguf", "--dtype", dtype)
    ids = ours.tokenize(model)
    exact = ours.logits(files["f32"], ids)
    for dtype in DTYPES:
        yield [name, "mamba2", dtype], compare(ours, files[dtype], dtype, exact, ids)
        files[dtype].unlink() if dtype != "f32" else None
    for dtype, file_type in FILE_TYPES.items():
        path = folder / f"{name}-theirs-{dtype}.gguf"
        quantise(files["f32"], path, file_type)
        yield [name, "llama.cpp", dtype], compare(ours, path, dtype, exact, ids)
        path.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="model folders or files")
    parser.add_argument("--mamba2", default="build/release/bin/mamba2", help="the program")
    arguments = parser.parse_args()
    keep = silence()  # noqa: F841, llama.cpp calls it as long as it lives
    print("| model | written by | dtype | difference of the logits | error of the dtype | greedy | tokens | agree |")
    print("|---|---|---|---|---|---|---|---|")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(arguments.mamba2, pathlib.Path(folder))
        for model in arguments.models:
            for head, (row, good) in check(ours, model, pathlib.Path(folder)):
                print("| " + " | ".join(head + row) + " |", flush=True)
                failed += not good
    if failed:
        sys.exit(f"{failed} of the files don't agree")


if __name__ == "__main__":
    main()
