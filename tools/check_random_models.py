#!/usr/bin/env python3
"""Holds mamba2.cpp against a float64 evaluation in numpy, on random models of every dialect.

Usage: check_random_models.py [--mamba2 BINARY] [--first SEED] [--count N] [--dialect NAME] [--layers N]
                              [--tokens N]

A seed draws a dialect, sizes (odd ones among them, groups, kernels from 1 to 5, every activation, time step limits,
biases, attention with each kind of RoPE, MLPs, classification heads, tied and untied), a dtype for the file, and a batch
whose rows are padded left or right. Logits, hidden states, states and loss of `mamba2 forward`, whole and fed in parts,
and logits of `mamba2 classify` must be within 1e-5 (reference) or 2e-5 (cpu) of each tensor's largest value; what
`mamba2 convert` writes must give the same. Prints the largest difference of each kind; exits with 1 where one is over.

--layers and --tokens make deep models and long rows, where roundings add up.

Needs numpy. The models are drawn as a table of plain fields, which config_of() puts into a dialect's words and
evaluate() computes without looking at them again.
"""

import argparse
import json
import math
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import numpy as np

TOLERANCE = {"reference": 1e-5, "cpu": 2e-5}
DIALECTS = ("huggingface", "fork", "state-spaces", "codestral")


def silu(x):
    return x / (1 + np.exp(-x))


ACTIVATIONS = {
    "silu": silu,
    "swish": silu,
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


# --- drawing a model -------------------------------------------------------------------------------------------------


def draw_attention(rng, layers, rope_scalings):
    kv_heads, head_dim = rng.randint(1, 3), rng.choice([2, 4, 5, 6, 8, 10])
    rotary_dim = 2 * rng.randint(0, head_dim // 2)
    return SimpleNamespace(
        layers=sorted(rng.sample(range(layers), rng.randint(1, layers))), heads=kv_heads * rng.randint(1, 3),
        kv_heads=kv_heads, head_dim=head_dim, kernel=rng.choice([0, 1, 2, 3, 4, 5]), qkv_bias=rng.random() < 0.5,
        out_bias=rng.random() < 0.5, rotary_dim=rotary_dim, theta=rng.choice([10000.0, 500.0]),
        scaling=rng.choice(rope_scalings) if rotary_dim > 2 else None, factor=rng.choice([1.5, 2.0, 8.0]),
        max_positions=rng.choice([8, 16, 100]), scale=1 / math.sqrt(head_dim))  # fmt: skip


def draw(rng, dialect, layers):
    """A model in plain fields."""
    m = SimpleNamespace(
        dialect=dialect, vocab=rng.randint(5, 90), layers=rng.randint(1, 4), state=rng.choice([1, 2, 3, 5, 8, 16, 17, 32]),
        head_dim=rng.choice([1, 2, 3, 4, 5, 7, 8, 16]), groups=rng.choice([1, 1, 1, 2, 3, 4]),
        kernel=rng.choice([1, 2, 3, 4, 4, 5]), expand=rng.choice([1, 2, 2, 3, 4]), act="silu", eps=1e-5, gated_eps=1e-5,
        limit=(0.0, math.inf), bias=rng.random() < 0.4, conv_bias=rng.random() < 0.7, rmsnorm=True, norm_first=False,
        D_has_head_dim=False, mixer_mlp=0, ungrouped=False, attention=None, mlp=0, mlp_padding=128, mlp_bias=False,
        tied=rng.random() < 0.5, head=None, labels=0, head_bias=True, vocab_multiple=1)  # fmt: skip
    if dialect == "fork":
        m.groups = 1
    m.heads = m.groups * rng.randint(2, 4)
    if dialect == "codestral":  # mistral-inference fixes the rest
        m.state, m.head_dim, m.kernel, m.expand, m.bias, m.conv_bias = 128, 64, 4, 2, False, True
        m.layers = rng.randint(1, 2)
    m.layers = layers or m.layers
    if dialect in ("state-spaces", "codestral"):
        m.vocab_multiple = rng.choice([1, 8, 16])
        m.unpadded_vocab, m.vocab = m.vocab, -(-m.vocab // m.vocab_multiple) * m.vocab_multiple
    if dialect == "state-spaces":
        draw_state_spaces(rng, m)
    else:
        while m.heads * m.head_dim % m.expand:
            m.heads += m.groups
        m.hidden = m.heads * m.head_dim // m.expand
    if dialect in ("huggingface", "fork"):
        draw_huggingface(rng, m)
    return m


def draw_state_spaces(rng, m):
    inner = m.heads * m.head_dim + rng.choice([0, rng.randint(1, 9)])
    inner += -inner % m.expand
    m.hidden, m.mixer_mlp = inner // m.expand, inner - m.heads * m.head_dim
    m.rmsnorm, m.norm_first, m.D_has_head_dim = rng.random() < 0.75, rng.random() < 0.4, rng.random() < 0.4
    m.limit = (0.0, rng.choice([math.inf, math.inf, 0.3, 0.05]))
    m.mlp = rng.choice([0, 0, 10, 128, 130])
    if rng.random() < 0.5:
        m.attention = draw_attention(rng, m.layers, [None])
        m.attention.theta, m.attention.conv_bias = 10000.0, m.attention.qkv_bias
        m.attention.scale = rng.choice([m.attention.scale, 0.37])


def draw_huggingface(rng, m):
    m.act, m.eps = rng.choice(["silu", *ACTIVATIONS]), rng.choice([1e-5, 1e-6, 1e-3])
    m.limit = rng.choice([m.limit, (0.0, 0.3), (0.02, 0.1), (0.02, math.inf)])
    if m.dialect == "huggingface":
        m.gated_eps, m.ungrouped = m.eps, rng.random() < 0.3
    else:
        m.mlp, m.mlp_padding, m.mlp_bias = rng.choice([0, rng.randint(1, 20)]), rng.choice([1, 8, 16]), rng.random() < 0.5
        if rng.random() < 0.8:
            m.attention = draw_attention(rng, m.layers, [None, "linear", "dynamic"])
            m.attention.conv_bias = True
    if rng.random() < 0.3:
        m.labels, m.head, m.tied = rng.randint(1, 5), rng.choice(["fork", "score", "classifier"]), True
        m.head_bias = m.head == "fork" or rng.random() < 0.5


# --- in a dialect's words --------------------------------------------------------------------------------------------


def config_of(m):
    a = m.attention
    if m.dialect == "codestral":
        return {"dim": m.hidden, "n_layers": m.layers, "vocab_size": m.unpadded_vocab, "n_groups": m.groups,
                "pad_vocab_size_multiple": m.vocab_multiple, "tie_embeddings": m.tied, "rms_norm": True,
                "residual_in_fp32": True, "fused_add_norm": True, "model_type": "mamba"}  # fmt: skip
    if m.dialect == "state-spaces":
        ssm = {"layer": "Mamba2", "d_state": m.state, "d_conv": m.kernel, "expand": m.expand, "headdim": m.head_dim,
               "ngroups": m.groups, "d_ssm": m.heads * m.head_dim, "D_has_hdim": m.D_has_head_dim, "rmsnorm": m.rmsnorm,
               "norm_before_gate": m.norm_first, "bias": m.bias, "conv_bias": m.conv_bias, "dt_limit": list(m.limit)}
        attention = a and {"causal": True, "num_heads": a.heads, "num_heads_kv": a.kv_heads, "head_dim": a.head_dim,
                           "d_conv": a.kernel, "qkv_proj_bias": a.qkv_bias, "out_proj_bias": a.out_bias,
                           "rotary_emb_dim": a.rotary_dim, "softmax_scale": a.scale}  # fmt: skip
        return {"d_model": m.hidden, "n_layer": m.layers, "d_intermediate": m.mlp, "vocab_size": m.unpadded_vocab,
                "pad_vocab_size_multiple": m.vocab_multiple, "ssm_cfg": ssm, "attn_layer_idx": a.layers if a else [],
                "attn_cfg": attention or {}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True,
                "tie_embeddings": m.tied}  # fmt: skip
    config = {"model_type": "mamba2", "vocab_size": m.vocab, "hidden_size": m.hidden, "num_hidden_layers": m.layers,
              "state_size": m.state, "expand": m.expand, "n_groups": m.groups, "use_conv_bias": m.conv_bias,
              "hidden_act": m.act, "layer_norm_epsilon": m.eps, "time_step_limit": list(m.limit), "bos_token_id": 0,
              "eos_token_id": 2, "pad_token_id": 1, "architectures": ["Mamba2ForCausalLM"]}  # fmt: skip
    if m.head:
        config |= {"num_labels": m.labels, "id2label": {str(i): f"label {i}" for i in range(m.labels)},
                   "architectures": ["Mamba2ForSequenceClassification"]}  # fmt: skip
    if m.dialect == "huggingface":
        return config | {"num_heads": m.heads, "head_dim": m.head_dim, "conv_kernel": m.kernel, "use_bias": m.bias,
                         "tie_word_embeddings": m.tied}  # fmt: skip
    config |= {"mamba2_num_heads": m.heads, "mamba2_head_dim": m.head_dim, "mamba2_conv_kernel": m.kernel,
               "use_mamba2_bias": m.bias, "tie_embedding_weights": m.tied, "mlp_intermediate_size": m.mlp,
               "mlp_padding_size": m.mlp_padding, "use_mlp_bias": m.mlp_bias, "attention_layers_idx": []}  # fmt: skip
    if a:
        config |= {"attention_layers_idx": a.layers, "num_attention_heads": a.heads, "num_key_value_heads": a.kv_heads,
                   "attention_head_dim": a.head_dim, "attention_conv_kernel": a.kernel,
                   "use_attention_qkv_bias": a.qkv_bias, "use_attention_out_bias": a.out_bias,
                   "rope_emb_dim": a.rotary_dim, "rope_theta": a.theta, "max_position_embeddings": a.max_positions,
                   "rope_scaling": a.scaling and {"type": a.scaling, "factor": a.factor}}  # fmt: skip
    return config


def weights_of(m, rng):
    """Every tensor by its canonical name in float64."""
    w = {}

    def matrix(name, rows, columns, gain=1.0):
        w[name] = gain * rng.standard_normal((rows, columns)) / math.sqrt(columns)

    def vector(name, size, spread=0.3, middle=0.0):
        w[name] = middle + spread * rng.standard_normal(size)

    def conv(name, width, kernel, bias):
        w[name + ".weight"] = 1.2 * rng.standard_normal((width, 1, kernel)) / math.sqrt(kernel)
        if bias:
            vector(name + ".bias", width)

    def linear(name, rows, columns, bias, gain=1.0):
        matrix(name + ".weight", rows, columns, gain)
        if bias:
            vector(name + ".bias", rows)

    inner = m.heads * m.head_dim
    conv_dim = inner + 2 * m.groups * m.state
    w["backbone.embeddings.weight"] = rng.standard_normal((m.vocab, m.hidden))
    for i in range(m.layers):
        layer, mixer = f"backbone.layers.{i}.", f"backbone.layers.{i}.mixer."
        vector(layer + "norm.weight", m.hidden, middle=1)
        if m.attention and i in m.attention.layers:
            a = m.attention
            qkv = (a.heads + 2 * a.kv_heads) * a.head_dim
            linear(mixer + "in_proj", qkv, m.hidden, a.qkv_bias, gain=2)
            if a.kernel:
                conv(mixer + "conv1d", qkv, a.kernel, a.conv_bias)
            linear(mixer + "out_proj", m.hidden, a.heads * a.head_dim, a.out_bias)
        else:
            linear(mixer + "in_proj", 2 * m.mixer_mlp + inner + conv_dim + m.heads, m.hidden, m.bias)
            conv(mixer + "conv1d", conv_dim, m.kernel, m.conv_bias)
            vector(mixer + "dt_bias", m.heads, 2, -2)
            w[mixer + "A_log"] = np.log(rng.uniform(0.5, 8, m.heads))
            vector(mixer + "D", inner if m.D_has_head_dim else m.heads, 0.5, 1)
            if m.rmsnorm:
                vector(mixer + "norm.weight", inner, middle=1)
            linear(mixer + "out_proj", m.hidden, m.mixer_mlp + inner, m.bias)
        if m.mlp:
            width = -(-m.mlp // m.mlp_padding) * m.mlp_padding
            vector(layer + "norm2.weight", m.hidden, middle=1)
            linear(layer + "mlp.fc1", 2 * width, m.hidden, m.mlp_bias)
            linear(layer + "mlp.fc2", m.hidden, width, m.mlp_bias)
    vector("backbone.norm_f.weight", m.hidden, middle=1)
    if m.head is None and not m.tied:
        matrix("lm_head.weight", m.vocab, m.hidden)
    if m.head == "fork":
        linear("classification_head.dense", m.hidden, m.hidden, True)
    if m.head:
        linear("classification_head.out_proj" if m.head == "fork" else m.head, m.labels, m.hidden, m.head_bias)
    return w


# --- files -----------------------------------------------------------------------------------------------------------


def encode(values, dtype):
    values = values.astype(np.float32)  # f64 files hold no more, since no backend that is compared does
    if dtype == "BF16":  # cut, not rounded: any bf16 will do
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype])


def decode(stored, dtype):
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def save_safetensors(path, tensors):
    """tensors: name -> (dtype's name, array as stored)"""
    header, end = {}, 0
    for name, (dtype, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for _, v in tensors.values()))


def load_safetensors(path):
    raw = path.read_bytes()
    data = 8 + struct.unpack("<Q", raw[:8])[0]
    tensors = {}
    for name, entry in json.loads(raw[8:data]).items():
        if name != "__metadata__":
            begin, end = (data + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(raw[begin:end], np.float32).reshape(entry["shape"])
    return tensors


def write_model(m, rng, folder, weights):
    """Writes config and weights; returns the weights as the file holds them."""
    dtype = rng.choice(["F32", "F32", "F32", "F16", "BF16", "F64"])
    embeddings = "backbone.embedding.weight" if m.dialect in ("state-spaces", "codestral") else None
    prefix = "model." if m.dialect == "huggingface" and rng.random() < 0.1 else ""
    stored, held = {}, {}
    for name, values in weights.items():
        own = "F32" if name.endswith(("A_log", "dt_bias", ".D")) and rng.random() < 0.5 else dtype
        file_name = embeddings if embeddings and name == "backbone.embeddings.weight" else name
        if file_name.startswith(("backbone.", "lm_head.")):
            file_name = prefix + file_name
        stored[file_name] = (own, encode(values, own))
        held[name] = decode(stored[file_name][1], own)
    folder.mkdir()
    (folder / ("params.json" if m.dialect == "codestral" else "config.json")).write_text(json.dumps(config_of(m)))
    name = "consolidated" if m.dialect == "codestral" else "model"
    save_safetensors(folder / f"{name}.safetensors", stored)
    return held


# --- the evaluation in float64 ---------------------------------------------------------------------------------------


def rms(x, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def affine(w, name, x):
    return x @ w[name + ".weight"].T + w.get(name + ".bias", 0)


def causal_conv(w, name, x):
    """The convolution and the last kernel - 1 inputs."""
    weight, tokens = w[name + ".weight"], len(x)
    kernel = weight.shape[2]
    padded = np.concatenate([np.zeros((kernel - 1, x.shape[1])), x])
    y = sum(padded[k : k + tokens] * weight[:, 0, k] for k in range(kernel)) + w.get(name + ".bias", 0)
    return y, padded[tokens:].T


def rotate(a, x):
    """Rotary embedding of (tokens, heads, head_dim), the NeoX way."""
    if a.rotary_dim == 0:
        return x
    tokens, half, theta, positions = len(x), a.rotary_dim // 2, a.theta, np.arange(len(x), dtype=float)
    if a.scaling == "linear":
        positions /= a.factor
    if a.scaling == "dynamic" and tokens > a.max_positions:
        stretch = a.factor * tokens / a.max_positions - (a.factor - 1)
        theta *= stretch ** (a.rotary_dim / (a.rotary_dim - 2))
    angles = positions[:, None] / theta ** (np.arange(0, a.rotary_dim, 2) / a.rotary_dim)
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    low, high, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([low * cosine - high * sine, high * cosine + low * sine, rest], -1)


def attention(m, w, mixer, x, states):
    a, tokens = m.attention, len(x)
    qkv = affine(w, mixer + "in_proj", x)
    if a.kernel:
        qkv, states["conv"] = causal_conv(w, mixer + "conv1d", qkv)
    q, k, v = (part.reshape(tokens, -1, a.head_dim) for part in np.split(
        qkv, [a.heads * a.head_dim, (a.heads + a.kv_heads) * a.head_dim], 1))  # fmt: skip
    shared = a.heads // a.kv_heads
    q, k, v = rotate(a, q), np.repeat(rotate(a, k), shared, 1), np.repeat(v, shared, 1)
    scores = np.einsum("thd,shd->hts", q, k) * a.scale
    scores = np.where(np.tril(np.ones((tokens, tokens), bool)), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return affine(w, mixer + "out_proj", np.einsum("hts,shd->thd", shares, v).reshape(tokens, -1))


def mamba2(m, w, mixer, x, states):
    tokens, inner, group_width = len(x), m.heads * m.head_dim, m.groups * m.state
    widths = [m.mixer_mlp, m.mixer_mlp, inner, inner + 2 * group_width]
    z0, x0, z, xBC, dt_raw = np.split(affine(w, mixer + "in_proj", x), np.cumsum(widths), 1)
    xBC, states["conv"] = causal_conv(w, mixer + "conv1d", xBC)
    x, B, C = np.split(ACTIVATIONS[m.act](xBC), [inner, inner + group_width], 1)
    x = x.reshape(tokens, m.heads, m.head_dim)
    B, C = (np.repeat(part.reshape(tokens, m.groups, m.state), m.heads // m.groups, 1) for part in (B, C))
    dt = np.clip(np.logaddexp(0, dt_raw + w[mixer + "dt_bias"]), *m.limit)
    A, D = -np.exp(w[mixer + "A_log"]), w[mixer + "D"].reshape(m.heads, -1)
    S, y = np.zeros((m.heads, m.head_dim, m.state)), np.empty_like(x)
    for t in range(tokens):
        S = np.exp(dt[t] * A)[:, None, None] * S + np.einsum("h,hp,hn->hpn", dt[t], x[t], B[t])
        y[t] = np.einsum("hpn,hn->hp", S, C[t]) + D * x[t]
    states["ssm"], y = S, y.reshape(tokens, inner)

    def norm(values):
        grouped = values.reshape(tokens, 1 if m.ungrouped else m.groups, -1)
        return rms(grouped, m.gated_eps).reshape(tokens, inner) * w[mixer + "norm.weight"]

    if not m.rmsnorm:
        y = y * silu(z)
    else:
        y = norm(y) * silu(z) if m.norm_first else norm(y * silu(z))
    return affine(w, mixer + "out_proj", np.concatenate([silu(z0) * x0, y], 1))


def evaluate(m, w, ids):
    hidden, outputs = w["backbone.embeddings.weight"][ids], {}
    for i in range(m.layers):
        layer, states = f"backbone.layers.{i}.", {}
        compute = attention if m.attention and i in m.attention.layers else mamba2
        hidden = hidden + compute(m, w, layer + "mixer.", rms(hidden, m.eps) * w[layer + "norm.weight"], states)
        if m.mlp:
            value, gate = np.split(affine(w, layer + "mlp.fc1", rms(hidden, m.eps) * w[layer + "norm2.weight"]), 2, 1)
            hidden = hidden + affine(w, layer + "mlp.fc2", value * ACTIVATIONS[m.act](gate))
        outputs[f"hidden_states.{i}"] = hidden
        outputs |= {f"{name}_state.{i}": state for name, state in states.items() if state.size}
    hidden = outputs["last_hidden_state"] = rms(hidden, m.eps) * w["backbone.norm_f.weight"]
    if m.head is None:
        outputs["logits"] = hidden @ w["backbone.embeddings.weight" if m.tied else "lm_head.weight"].T
    elif m.head == "fork":
        hidden = silu(affine(w, "classification_head.dense", hidden))
        outputs["classes"] = affine(w, "classification_head.out_proj", hidden)
    else:
        outputs["classes"] = affine(w, m.head, hidden)
    return outputs


# --- the comparison --------------------------------------------------------------------------------------------------


class Comparison:
    def __init__(self, binary):
        self.binary, self.worst, self.failures = binary, {}, 0

    def run(self, *arguments):
        done = subprocess.run([self.binary, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0 or done.stderr:
            raise RuntimeError(f"{' '.join(map(str, arguments))}: {done.returncode} {done.stderr.strip()}")
        return done.stdout

    def compare(self, seed, device, name, got, want):
        got, want = np.asarray(got, np.float64), np.asarray(want)
        largest = np.abs(want).max() if want.size else 1
        error = np.inf if got.shape != want.shape else np.abs(got - want).max(initial=0) / max(largest, 1e-30)
        kind = (device, name.split(".")[0])
        self.worst[kind] = max(self.worst.get(kind, (0, seed)), (error, seed))
        if not error <= TOLERANCE[device]:
            self.failures += 1
            print(f"seed {seed}: {device}: {name} differs by {error:.1e} of the largest value")

    def forward(self, seed, m, rng, rows, outputs, folder, options):
        length, left = max(map(len, rows)), [rng.random() < 0.5 for _ in rows]

        def padded(values, fill):
            values = [list(row) for row in values]
            pads = [[fill] * (length - len(row)) for row in values]
            return [pad + row if at_left else row + pad for row, pad, at_left in zip(values, pads, left)]

        labels = [[token if rng.random() < 0.8 else -100 for token in row] for row in rows]
        request, answer = folder / "input.json", folder / "output.safetensors"
        request.write_text(json.dumps({"input_ids": padded(rows, 0), "labels": padded(labels, -100),
                                       "attention_mask": padded([[1] * len(row) for row in rows], 0)}))  # fmt: skip
        want = {}
        for name, value in outputs[0].items():
            each = [output[name] for output in outputs]
            want[name] = np.stack(each) if "_state." in name else np.array(padded(each, np.zeros(value.shape[1])))
        losses = [np.logaddexp.reduce(logits) - logits[label] for row, output in zip(labels, outputs)
                  for logits, label in zip(output["logits"], row[1:]) if label != -100]  # fmt: skip
        if losses:
            want["loss"] = [np.mean(losses)]
        splits = [[], ["--split", rng.randint(1, 6)]]
        if m.attention and m.attention.scaling == "dynamic":
            splits.pop()  # turns the tokens of a call by the length that they reach together
        for device in TOLERANCE:
            for split in splits:
                self.run("forward", "--model", folder / "model", "--device", device, "--input", request, "--output", answer,
                         "--hidden-states", "--states", *options, *split)  # fmt: skip
                got = load_safetensors(answer)
                for name, value in want.items():
                    self.compare(seed, device, name, got[name], value)
        self.run("forward", "--model", folder / "converted", "--device", "reference", "--input", request, "--output", answer,
                 *options)  # fmt: skip
        self.compare(seed, "reference", "converted", load_safetensors(answer)["logits"], want["logits"])

    def classify(self, seed, rows, outputs, folder, options):
        length = max(map(len, rows))
        request = folder / "input.json"
        request.write_text(json.dumps({"input_ids": [row + [1] * (length - len(row)) for row in rows]}))
        want = [output["classes"][-1] for output in outputs]
        for device, model in (("reference", "model"), ("cpu", "model"), ("reference", "converted")):
            lines = self.run("classify", "--model", folder / model, "--device", device, "--input", request, "--json",
                             *options).splitlines()  # fmt: skip
            self.compare(seed, device, "classes", [json.loads(line)["logits"] for line in lines], want)

    def check(self, seed, dialect, layers, tokens):
        rng = random.Random(seed)
        m = draw(rng, dialect or rng.choice(DIALECTS), layers)
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            weights = write_model(m, rng, folder / "model", weights_of(m, np.random.default_rng(seed)))
            longest = tokens or rng.choice([1, 2, 3, 7, 20, 33])
            lengths = [longest, *(rng.randint(1, longest) for _ in range(rng.randint(0, 3)))]
            rows = [[rng.randrange(m.vocab) for _ in range(length)] for length in lengths]
            if m.head:  # 1 is the pad token
                rows = [[0 if token == 1 else token for token in row] for row in rows]
            outputs = [evaluate(m, weights, row) for row in rows]
            options = ["--gated-norm", "ungrouped"] if m.ungrouped else []
            self.run("convert", folder / "model", folder / "converted")
            if m.head:
                self.classify(seed, rows, outputs, folder, options)
            else:
                self.forward(seed, m, rng, rows, outputs, folder, options)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mamba2", default="build/release/bin/mamba2")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--dialect", choices=DIALECTS)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--tokens", type=int)
    arguments = parser.parse_args()
    comparison = Comparison(arguments.mamba2)
    for seed in range(arguments.first, arguments.first + arguments.count):
        comparison.check(seed, arguments.dialect, arguments.layers, arguments.tokens)
    for (device, name), (error, seed) in sorted(comparison.worst.items()):
        print(f"{device:10} {name:18} {error:.1e} (seed {seed})")
    print(f"{arguments.count} models, {comparison.failures} tensors over the tolerance")
    return comparison.failures > 0


if __name__ == "__main__":
    sys.exit(main())
