#!/usr/bin/env python3
"""Writes the seeds of the checkpoint fuzzers, cut from the goldens to a few KB each: fuzz/make_corpus.py"""
import io
import json
import pathlib
import struct
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN, CORPUS = ROOT / "tests" / "data" / "golden", ROOT / "fuzz" / "corpus"


def write(fuzzer, name, data):
    (CORPUS / fuzzer).mkdir(parents=True, exist_ok=True)
    (CORPUS / fuzzer / name).write_bytes(data)


def cut_safetensors(path, count):
    """The header's first tensors, their shapes made of ones and twos."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    small, end = {}, 0
    for name, info in list(header.items())[: count + 1]:
        if name != "__metadata__":
            size = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}[info["dtype"]]
            info["shape"] = [1 + i % 2 for i in range(len(info["shape"]))]
            for extent in info["shape"]:
                size *= extent
            info["data_offsets"] = [end, end + size]
            end += size
        small[name] = info
    text = json.dumps(small, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def cut_pytorch(path):
    """The pickle, and an archive with it whose storages are missing but for the first."""
    archive = zipfile.ZipFile(path)
    folder = archive.namelist()[0].split("/")[0]
    pickle = archive.read(f"{folder}/data.pkl")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as small:
        small.writestr("a/data.pkl", pickle)
        small.writestr("a/byteorder", "little")
        small.writestr("a/data/0", archive.read(f"{folder}/data/0")[:512])
    return pickle, out.getvalue()


for case in ("hf-basic", "hf-bf16", "hf-odd"):
    write("safetensors_fuzz", case, cut_safetensors(GOLDEN / case / "model.safetensors", 4))
for case in ("state-spaces", "state-spaces-no-rmsnorm"):
    pickle, archive = cut_pytorch(GOLDEN / case / "pytorch_model.bin")
    write("pickle_fuzz", case + ".pkl", pickle)
    write("pickle_fuzz", case + ".zip", archive)
index = json.loads((GOLDEN / "state-spaces-hybrid" / "pytorch_model.bin.index.json").read_text())
index["weight_map"] = dict(list(index["weight_map"].items())[::12])
write("weight_map_fuzz", "state-spaces-hybrid", json.dumps(index).encode())
