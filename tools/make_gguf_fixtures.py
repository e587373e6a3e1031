#!/usr/bin/env python3
"""Makes tests/data/gguf from golden checkpoints with the gguf package's writer, in llama.cpp's keys, names and shapes.

Needs: pip install gguf numpy
"""

import json
import pathlib
import sys

import gguf
import numpy as np

LAYER_NAMES = {
    "norm.weight": "attn_norm.weight",
    "mixer.in_proj.weight": "ssm_in.weight",
    "mixer.conv1d.weight": "ssm_conv1d.weight",
    "mixer.conv1d.bias": "ssm_conv1d.bias",
    "mixer.dt_bias": "ssm_dt.bias",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.norm.weight": "ssm_norm.weight",
    "mixer.out_proj.weight": "ssm_out.weight",
}
MODEL_NAMES = {
    "backbone.embeddings.weight": "token_embd.weight",
    "backbone.norm_f.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
MATRICES = ("token_embd.weight", "output.weight", "ssm_in.weight", "ssm_out.weight")


def read_safetensors(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        assert entry["dtype"] == "F32", name
        begin, end = (8 + length + at for at in entry["data_offsets"])
        yield name, np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])


def renamed(name):
    if name in MODEL_NAMES:
        return MODEL_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest]}"


def reshaped(name, tensor, config):
    if name.endswith("ssm_a"):
        return -np.exp(tensor).reshape(-1, 1)
    if name.endswith("ssm_d"):
        return tensor.reshape(-1, 1)
    if name.endswith("ssm_norm.weight"):
        return tensor.reshape(config["n_groups"], -1)
    return tensor.squeeze()


def write(folder, out, quantized):
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "mamba2")
    writer.add_context_length(2**20)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_ssm_conv_kernel(config["conv_kernel"])
    writer.add_ssm_inner_size(config["expand"] * config["hidden_size"])
    writer.add_ssm_state_size(config["state_size"])
    writer.add_ssm_time_step_rank(config["num_heads"])
    writer.add_ssm_group_count(config["n_groups"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    writer.add_eos_token_id(config["eos_token_id"])
    for name, tensor in read_safetensors(folder / "model.safetensors"):
        theirs = renamed(name)
        tensor = np.ascontiguousarray(reshaped(theirs, tensor, config), dtype=np.float32)
        if quantized and theirs.endswith(MATRICES):
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(theirs, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(theirs, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    data = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data")
    (data / "gguf").mkdir(parents=True, exist_ok=True)
    write(data / "golden/hf-groups", data / "gguf/hf-groups-f32.gguf", quantized=False)
    write(data / "golden/hf-groups", data / "gguf/hf-groups-q8_0.gguf", quantized=True)


if __name__ == "__main__":
    main()
