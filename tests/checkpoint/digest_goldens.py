#!/usr/bin/env python3
"""Prints `PATH TENSORS DIGEST` for every checkpoint under tests/data/golden, read with nothing but Python's own json,
zipfile and pickle, to hold the C++ readers against.  DIGEST: FNV-1a (64 bits) over name, dtype, shape and values of all
tensors in the order of their names.

    tests/checkpoint/digest_goldens.py > tests/checkpoint/golden_digests.txt
"""
import collections
import io
import json
import pathlib
import pickle
import struct
import zipfile

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "data" / "golden"
STORAGES = {"FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2), "LongStorage": ("I64", 8)}


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, info in header.items():
        begin, end = info["data_offsets"]
        yield name, info["dtype"], info["shape"], data[8 + length + begin : 8 + length + end]


def read_pytorch(path):
    archive = zipfile.ZipFile(path)
    folder = archive.namelist()[0].split("/")[0]

    def rebuild(storage, offset, shape, strides, *_):
        (dtype, size), key = storage
        values = archive.read(f"{folder}/data/{key}")
        count = 1
        for extent, stride in zip(reversed(shape), reversed(strides)):
            assert extent == 1 or stride == count, "the goldens are contiguous"
            count *= extent
        return dtype, list(shape), values[offset * size : (offset + count) * size]

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if name == "_rebuild_tensor_v2":
                return rebuild
            return collections.OrderedDict if name == "OrderedDict" else STORAGES[name]

        def persistent_load(self, pid):
            return pid[1], pid[2]

    for name, tensor in Unpickler(io.BytesIO(archive.read(f"{folder}/data.pkl"))).load().items():
        yield name, *tensor


def digest(tensors):
    value = 0xCBF29CE484222325
    for name, dtype, shape, data in tensors:
        for byte in f"{name} {dtype} {shape} ".encode() + data:
            value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


for path in sorted(GOLDEN.glob("*/*")):
    if path.suffix not in (".safetensors", ".bin"):
        continue
    tensors = sorted((read_pytorch if path.suffix == ".bin" else read_safetensors)(path))
    print(path.relative_to(GOLDEN), len(tensors), f"{digest(tensors):016x}")
