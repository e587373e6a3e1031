#!/usr/bin/env python3
"""Holds GGUF files against llama.cpp, both ways: what one program writes the other must read and say the same.

For every model and dtype:
  ours     mamba2 convert writes the file; llama.cpp's tokenizer must give the same ids, its logits must be those of the
           file's weights but for the rounding of its products, and its greedy tokens must be ours wherever the best two
           logits are further apart than that
  theirs   llama.cpp's quantiser makes the file out of our f32 one; mamba2 must read it and agree in the same way

How far llama.cpp may be off is derived, not fitted.  What it is held against is exact: mamba2 with --dtype f32, which
multiplies the very values that the file holds.  llama.cpp rounds activations: to bytes in blocks where weights are
quantised, to f16 or bf16 where weights are.
  quantised  mamba2's own products round to bytes in the same blocks by the same rule (a step of the largest / 127), so
             rms(mamba2 - exact) is the error of that rounding in this model at these weights.  Errors of two programs
             that round almost equal numbers are of one size, not equal: llama.cpp may have twice that.
  f16, bf16, f32  the error grows with the rounding that causes it: that of bytes is rms 2.35 / 127 / sqrt(12) (2.35: the
             mean largest of 32 normal numbers) and gives what q8_0 was measured to give, so a rounding of unit u, rms at
             most u / sqrt(3), gives in proportion.  In f32 it is sums of up to 4096 terms that round: u sqrt(4096).
             Twice that again.

--tokenizer FILE adds a small random model with that tokenizer, whose ids are compared on many texts.

Needs: pip install llama-cpp-python numpy.  Use: tools/check_llama.py [--mamba2 FILE] [--tokenizer FILE]... [MODEL]...
"""

import argparse
import ctypes
import json
import pathlib
import sys
import tempfile

import llama_cpp
import numpy as np

from mamba2_output import read_logits, run

TEXT = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. "
    'She said: "Don\'t you think, Mr. Holmes, that 1,234 pounds\n\n  is -- well -- too much?"\n\tHe laughed.'
)
DTYPES = ["f32", "f16", "bf16", "q8_0", "q6_k", "q4_0", "q4_k"]
# llama.cpp's quantiser's kinds of files: q4_k is its Q4_K_S, which like ours keeps 4 bits for every matrix but the head
FILE_TYPES = {"q8_0": 7, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q4_k": 14, "q5_k": 16, "q6_k": 18}
ROUNDING_TO_BYTES = 2.35 / 127 / 12**0.5
ROUNDING = {"f32": 2**-24 * 4096**0.5, "f16": 2**-11 / 3**0.5, "bf16": 2**-8 / 3**0.5}
GREEDY = 32


class Ours:
    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder

    def logits(self, model, ids, dtype="auto"):
        source, target = self.folder / "ids.json", self.folder / "out.safetensors"
        source.write_text(json.dumps({"input_ids": [list(ids)]}))
        run(self.binary, "forward", "--model", model, "--input", source, "--output", target, "--dtype", dtype)
        return read_logits(target)[0].astype(np.float64)

    def tokenize(self, model, texts):
        lines = self.folder / "lines.jsonl"
        lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        answers = run(self.binary, "tokenize", "--jsonl", "--model", model, "--file", lines).splitlines()
        return [json.loads(answer)["ids"] for answer in answers]


class Theirs:
    """One file in llama.cpp."""

    def __init__(self, path):
        self.llama = llama_cpp.Llama(str(path), n_ctx=1024, n_batch=1024, logits_all=True, verbose=False, n_threads=2)

    def logits(self, ids):
        self.llama.reset()
        self.llama.eval(list(ids))
        return np.array(self.llama.scores[: len(ids)], dtype=np.float64)

    def greedy(self, ids):
        """The ids and GREEDY more."""
        sequence = list(ids)
        self.llama.reset()
        self.llama.eval(sequence)
        for _ in range(GREEDY):
            sequence.append(int(np.argmax(self.llama.scores[len(sequence) - 1])))
            self.llama.eval(sequence[-1:])
        return sequence

    def tokenize(self, text):
        return self.llama.tokenize(text.encode(), add_bos=False, special=True)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def greedy_agrees(ours, model, theirs, ids, tolerance):
    """Feeds llama.cpp's greedy tokens to both: the exact logits must pick the same unless the two best are closer than
    four times the rms error of a difference of two logits."""
    sequence = theirs.greedy(ids)
    logits = ours.logits(model, sequence[:-1], "f32")[len(ids) - 1 :]
    same = 0
    for step, row in enumerate(logits):
        chosen = sequence[len(ids) + step]
        if row.max() - row[chosen] > 4 * 2**0.5 * tolerance:
            return False, same
        same += int(np.argmax(row) == chosen)
    return True, same


def compare(ours, path, dtype, bytes_error, ids):
    """A row of the table, and whether it is as it should be.  bytes_error: what rounding to bytes does to this model."""
    theirs = Theirs(path)
    exact, b = ours.logits(path, ids, "f32"), theirs.logits(ids)
    size, difference = rms(exact), rms(b - exact)
    if dtype in ROUNDING:
        allowed = 2 * bytes_error * ROUNDING[dtype] / ROUNDING_TO_BYTES
    else:
        allowed = 2 * rms(ours.logits(path, ids) - exact)
    agrees, same = greedy_agrees(ours, path, theirs, ids[:16], allowed)
    tokens = theirs.tokenize(TEXT) == list(ids)
    good = difference <= allowed and agrees and tokens and np.isfinite(b).all()
    return [f"{difference / size:.2e}", f"{allowed / size:.2e}", f"{same}/{GREEDY}", "yes" if tokens else "NO",
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


def check(ours, model, folder, dtypes):
    name = pathlib.Path(model).name
    files = {}
    written = [dtype for dtype in DTYPES if dtype in dtypes or dtype in ("f32", "q8_0")]
    for dtype in written:
        files[dtype] = folder / f"{name}-{dtype}.gguf"
        run(ours.binary, "convert", model, files[dtype], "--format", "gguf", "--dtype", dtype)
    ids = ours.tokenize(model, [TEXT])[0]
    bytes_error = rms(ours.logits(files["q8_0"], ids) - ours.logits(files["q8_0"], ids, "f32"))
    for dtype in written:
        yield [name, "mamba2", dtype], compare(ours, files[dtype], dtype, bytes_error, ids)
        if dtype != "f32":
            files[dtype].unlink()
    for dtype, file_type in FILE_TYPES.items():
        if dtype not in dtypes:
            continue
        path = folder / f"{name}-theirs-{dtype}.gguf"
        quantise(files["f32"], path, file_type)
        yield [name, "llama.cpp", dtype], compare(ours, path, dtype, bytes_error, ids)
        path.unlink()


def write_small_model(folder, rows):
    """A random model in Hugging Face's form with that many rows of embeddings."""
    config = {"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "vocab_size": rows, "hidden_size": 64,
              "num_hidden_layers": 2, "state_size": 16, "expand": 2, "head_dim": 16, "num_heads": 8, "n_groups": 2,
              "conv_kernel": 4, "chunk_size": 32, "tie_word_embeddings": True}  # fmt: skip
    rng = np.random.default_rng(1)
    shapes = {"backbone.embeddings.weight": (rows, 64), "backbone.norm_f.weight": (64,)}
    for layer in range(2):
        prefix = f"backbone.layers.{layer}."
        shapes |= {prefix + "norm.weight": (64,), prefix + "mixer.in_proj.weight": (328, 64),
                   prefix + "mixer.conv1d.weight": (192, 1, 4), prefix + "mixer.conv1d.bias": (192,),
                   prefix + "mixer.dt_bias": (8,), prefix + "mixer.A_log": (8,), prefix + "mixer.D": (8,),
                   prefix + "mixer.norm.weight": (128,), prefix + "mixer.out_proj.weight": (64, 128)}  # fmt: skip
    header, data = {}, b""
    for name, shape in shapes.items():
        values = (rng.standard_normal(shape) / np.sqrt(shape[-1]) + ("norm" in name)).astype("<f4")
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def texts_to_tokenize():
    """Words, numbers, white space, code, scripts and emoji, without what a normalizer changes or a special token spells."""
    pieces = ["Hello", " world", "don't", "  ", "\n", "\n\n", "\t", " 3.14", "1234567", "(x)=>{}", "été", "naïve", "你好",
              "русский", "عربي", "🙂", "👩‍👩‍👧", "'s", " I'll", "...", "==", "A_b", "\u00a0", "�"]  # fmt: skip
    rng = np.random.default_rng(7)
    return pieces + ["".join(rng.choice(pieces, rng.integers(2, 12))) for _ in range(300)]


def check_tokenizer(ours, tokenizer, folder):
    rows = 65536
    write_small_model(folder / "small", rows)
    path = folder / "small.gguf"
    run(ours.binary, "convert", folder / "small", path, "--format", "gguf", "--tokenizer", tokenizer)
    theirs, texts = Theirs(path), texts_to_tokenize()
    differing = [t for t, ids in zip(texts, ours.tokenize(path, texts)) if theirs.tokenize(t) != ids]
    ids = ours.tokenize(path, [TEXT])[0]
    a, b = ours.logits(path, ids), theirs.logits(ids)
    good = not differing and rms(a - b) <= 4 * ROUNDING["f32"] * rms(a)  # two products of two layers each
    print(f"{pathlib.Path(tokenizer).name}: {len(texts) - len(differing)} of {len(texts)} texts have the same ids, "
          f"logits of a random model differ by {rms(a - b) / rms(a):.1e}")  # fmt: skip
    for text in differing[:5]:
        print(f"  differs: {text!r}: {ours.tokenize(path, [text])[0]} here, {theirs.tokenize(text)} in llama.cpp")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="model folders or files")
    parser.add_argument("--dtypes", default=",".join(dict.fromkeys([*DTYPES, *FILE_TYPES])), help="%(default)s")
    parser.add_argument("--tokenizer", action="append", default=[], help="tokenizer.json or tokenizer.model")
    parser.add_argument("--mamba2", default="build/release/bin/mamba2", help="the program")
    arguments = parser.parse_args()
    keep = silence()  # noqa: F841, llama.cpp calls it as long as it lives
    failed = 0
    for tokenizer in arguments.tokenizer:
        with tempfile.TemporaryDirectory() as folder:
            failed += not check_tokenizer(Ours(arguments.mamba2, pathlib.Path(folder)), tokenizer, pathlib.Path(folder))
    if not arguments.models:
        sys.exit(failed)
    print("| model | written by | dtype | error of llama.cpp's logits | allowed | greedy | tokens | agree |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(arguments.mamba2, pathlib.Path(folder))
        for model in arguments.models:
            for head, (row, good) in check(ours, model, pathlib.Path(folder), arguments.dtypes.split(",")):
                print("| " + " | ".join(head + row) + " |", flush=True)
                failed += not good
    if failed:
        sys.exit(f"{failed} of the files don't agree")


if __name__ == "__main__":
    main()
