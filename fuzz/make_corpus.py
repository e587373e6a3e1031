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


def gguf_text(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_value(value):
    """A GGUF value of the type that tokenizers have it in, its type first."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_text(value)
    kind, code = {str: (8, ""), int: (5, "i"), float: (6, "f")}[type(value[0])]
    items = [gguf_text(item) if kind == 8 else struct.pack("<" + code, item) for item in value]
    return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)


def gguf_tokenizer(**keys):
    values = [gguf_text(f"tokenizer.ggml.{name}") + gguf_value(value) for name, value in keys.items()]
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)) + b"".join(values)


write("gguf_fuzz", "gpt2", gguf_tokenizer(
    model="gpt2", pre="gpt-2", tokens=["A", "b", "\u0120", "\u0120b", "1", "2", "\u00c3", "\u00a9", "<end>"],
    token_type=[1] * 8 + [3], merges=["\u0120 b"], eos_token_id=8, add_eos_token=True))
write("gguf_fuzz", "llama", gguf_tokenizer(
    model="llama", pre="default", tokens=["<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "A", "b", "\u2581b"],
    scores=[0.0, 0.0, 0.0, 0.0, -3.0, -4.0, -5.0, -1.0], token_type=[2, 3, 3, 6, 1, 1, 1, 1], unknown_token_id=0,
    bos_token_id=1, eos_token_id=2, add_bos_token=True, add_space_prefix=True))
for case in ("hf-basic", "hf-bf16", "hf-odd"):
    write("safetensors_fuzz", case, cut_safetensors(GOLDEN / case / "model.safetensors", 4))
for case in ("state-spaces", "state-spaces-no-rmsnorm"):
    pickle, archive = cut_pytorch(GOLDEN / case / "pytorch_model.bin")
    write("pickle_fuzz", case + ".pkl", pickle)
    write("pickle_fuzz", case + ".zip", archive)
index = json.loads((GOLDEN / "state-spaces-hybrid" / "pytorch_model.bin.index.json").read_text())
index["weight_map"] = dict(list(index["weight_map"].items())[::12])
write("weight_map_fuzz", "state-spaces-hybrid", json.dumps(index).encode())
