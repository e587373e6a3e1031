#!/usr/bin/env python3
"""Makes tests/data/quantized: blocks of every quantised dtype and what the gguf package reads from them.

TYPE.blocks     random blocks (random quants and scales, finite f16 factors)
TYPE.values     their elements, f32 little-endian
input.values    f32 values to quantise: normal, tiny, one outlier, all zero
TYPE.quantized  what the package makes of them, for the types that are quantised bit for bit alike

Needs: pip install gguf numpy
"""

import pathlib
import sys

import gguf
import numpy as np

TYPES = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
# where a block's f16 factors lie, in bytes
FACTORS = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
ELEMENTS = 1024


def random_blocks(rng, name):
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (ELEMENTS // elements, size), dtype=np.uint8)
    for at in FACTORS[name]:
        factors = (rng.standard_normal(len(blocks)) * 10.0 ** rng.integers(-6, 2, len(blocks))).astype(np.float16)
        blocks[:, at : at + 2] = factors.view(np.uint8).reshape(-1, 2)
    return blocks


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/quantized")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20240531)
    for name in TYPES:
        blocks = random_blocks(rng, name)
        values = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name]).astype("<f4")
        (folder / f"{name.lower()}.blocks").write_bytes(blocks.tobytes())
        (folder / f"{name.lower()}.values").write_bytes(values.tobytes())
    values = rng.standard_normal(ELEMENTS).astype("<f4")
    values[256:512] *= 1e-3
    values[700] = 30
    values[768:800] = 0
    (folder / "input.values").write_bytes(values.tobytes())
    for name in ["Q8_0", "Q4_0"]:
        quantized = gguf.quants.quantize(values.reshape(1, -1), gguf.GGMLQuantizationType[name])
        (folder / f"{name.lower()}.quantized").write_bytes(quantized.tobytes())


if __name__ == "__main__":
    main()
