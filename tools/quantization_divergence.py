#!/usr/bin/env python3
"""How far files of one model are from its exact form, on real text: the Kullback-Leibler divergence of their next-token
distributions and the change of the loss, each with its standard error over windows.

A divergence is never negative and grows with every error; perplexity also falls by chance, above all on text that the
model does not know.  Windows of --context tokens, spread evenly over each text; all files see the same ones.

Needs: pip install numpy.  Use: tools/quantization_divergence.py [options] --text FILE EXACT FILE...
"""

import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np

from mamba2_output import read_logits, run

WINDOWS_AT_ONCE = 4


def windows(arguments, text):
    ids = json.loads(run(arguments.mamba2, "tokenize", "--model", arguments.exact, "--json", "--file", text))["ids"]
    whole = len(ids) // arguments.context
    if whole == 0:
        sys.exit(f"{text}: {len(ids)} tokens, expected {arguments.context} at least")
    starts = sorted({int((i + 0.5) * whole / arguments.windows) for i in range(arguments.windows)})
    return [ids[start * arguments.context : (start + 1) * arguments.context] for start in starts]


def log_probabilities(arguments, model, rows, folder):
    """(windows, context - 1, vocab_size): of every token but the first."""
    source, target = folder / "in.json", folder / "out.safetensors"
    source.write_text(json.dumps({"input_ids": rows}))
    run(arguments.mamba2, "forward", "--model", model, "--input", source, "--output", target)
    logits = read_logits(target)[:, :-1]
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def loss(log_p, rows):
    """Of each window."""
    targets = np.array(rows)[:, 1:, None]
    return -np.take_along_axis(log_p, targets, -1)[..., 0].mean(-1)


def compare(arguments, rows, folder):
    """{file: (divergences, changes of the loss)}, an element a window."""
    found = {model: ([], []) for model in arguments.files}
    for at in range(0, len(rows), WINDOWS_AT_ONCE):
        part = rows[at : at + WINDOWS_AT_ONCE]
        exact = log_probabilities(arguments, arguments.exact, part, folder)
        for model, (divergences, changes) in found.items():
            other = log_probabilities(arguments, model, part, folder)
            divergences.extend((np.exp(exact) * (exact - other)).sum(-1).mean(-1))
            changes.extend(loss(other, part) - loss(exact, part))
    return found


def with_error(values, form):
    values = np.array(values)
    return f"{values.mean():{form}} ± {values.std() / len(values) ** 0.5:.5f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exact", help="the model in f32")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--windows", type=int, default=16, help="of each text (%(default)s)")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--mamba2", default="build/release/bin/mamba2", help="the program")
    arguments = parser.parse_args()
    print("| text | file | divergence, nats a token | change of the loss |")
    print("|---|---|---|---|")
    for text in arguments.text:
        with tempfile.TemporaryDirectory() as folder:
            found = compare(arguments, windows(arguments, text), pathlib.Path(folder))
        for model, (divergences, changes) in found.items():
            cells = f"{with_error(divergences, '.5f')} | {with_error(changes, '+.5f')}"
            print(f"| {pathlib.Path(text).stem} | {pathlib.Path(model).name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
