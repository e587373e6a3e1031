"""What the tools that run mamba2 share: its output, and the logits that `mamba2 forward` writes."""

import json
import subprocess
import sys

import numpy as np


def run(*command):
    """What the command prints; the tool ends with the command's own message where it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr.decode()}")
    return done.stdout.decode()


def read_logits(path):
    """(sequences, tokens, vocab_size) in float32."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])["logits"]
    begin, end = (8 + length + at for at in entry["data_offsets"])
    return np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
