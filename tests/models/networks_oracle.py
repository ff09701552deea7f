"""The equations of the paper in NumPy, float64, one sample, with loops: slow, and independent of the package.

Maps are (C, H, W). ``w`` is a mapping from parameter names to arrays, as a network's ``state_dict`` names them.
"""

import numpy as np


def under(w, prefix):
    return {name[len(prefix) + 1 :]: value for name, value in w.items() if name.startswith(prefix + ".")}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolve(x, kernel):
    """Cross-correlate (C, H, W) with (O, C, k, k), zeros around the map."""
    C, H, W = x.shape
    k = kernel.shape[-1]
    r = k // 2
    padded = np.zeros((C, H + 2 * r, W + 2 * r))
    padded[:, r : r + H, r : r + W] = x
    y = np.zeros((kernel.shape[0], H, W))
    for row in range(H):
        for col in range(W):
            window = padded[:, row : row + k, col : col + k]
            y[:, row, col] = np.einsum("ocij,cij->o", kernel, window)
    return y


def convolve_depthwise(x, kernel):
    """Cross-correlate each channel of (C, H, W) with its own (C, 1, k, k)."""
    return np.concatenate([convolve(x[c : c + 1], kernel[c : c + 1]) for c in range(x.shape[0])])


def pointwise(x, weight, bias=None):
    y = np.einsum("oc,chw->ohw", weight, x)
    return y if bias is None else y + bias[:, None, None]


def layer_norm(x, scale):
    return scale[:, None, None] * (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def biased(w, x):
    """A convolution with a bias."""
    return convolve(x, w["weight"]) + w["bias"][:, None, None]


def relu(x):
    return np.maximum(x, 0)


def halve(x):
    """The largest of 2×2 positions."""
    C, H, W = x.shape
    y = np.zeros((C, H // 2, W // 2))
    for row in range(H // 2):
        for col in range(W // 2):
            y[:, row, col] = x[:, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].max(axis=(1, 2))
    return y


def to_multiple(x, of):
    """Zeros below and to the right, until the sides are multiples."""
    C, H, W = x.shape
    y = np.zeros((C, -(-H // of) * of, -(-W // of) * of))
    y[:, :H, :W] = x
    return y


def conv_lstm(w, x, h, c):
    """ConvLSTM without norms."""
    gates = convolve(x, w["input.weight"]) + convolve(h, w["hidden.weight"]) + w["bias"][:, None, None]
    i, f, o, g = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def pool(x, stride):
    C, H, W = x.shape
    y = np.zeros((C, -(-H // stride), -(-W // stride)))
    for row in range(y.shape[1]):
        for col in range(y.shape[2]):
            cell = x[:, row * stride : (row + 1) * stride, col * stride : (col + 1) * stride]
            y[:, row, col] = cell.mean(axis=(1, 2))
    return y


def attention_weights(query_map, key_map, w_query, w_key, scale=1.0, stride=1):
    """α, (positions, keys): softmax over the keys of Qᵀ K."""
    query = pointwise(query_map, w_query).reshape(w_query.shape[0], -1)
    key = pointwise(pool(key_map, stride), w_key).reshape(w_key.shape[0], -1)
    alpha = np.zeros((query.shape[1], key.shape[1]))
    for i in range(query.shape[1]):
        e = scale * (query[:, i] @ key)
        alpha[i] = np.exp(e - e.max()) / np.exp(e - e.max()).sum()
    return alpha


def attend(w, query_map, maps, scale=1.0, stride=1):
    """W [Z_1; Z_2; ...], with Z_i = Σ_j α_ij V_j for each of the maps."""
    C, H, W = query_map.shape
    read = []
    for n, key_map in enumerate(maps):
        alpha = attention_weights(query_map, key_map, w["query.weight"], w[f"keys.{n}.weight"], scale, stride)
        value = pointwise(pool(key_map, stride), w[f"values.{n}.weight"]).reshape(C, -1)
        z = np.zeros((C, H * W))
        for i in range(H * W):
            for j in range(value.shape[1]):
                z[:, i] += alpha[i, j] * value[:, j]
        read.append(z.reshape(C, H, W))
    return pointwise(np.concatenate(read), w["out.weight"])


def self_attention(w, h, scale=1.0, stride=1):
    return attend(under(w, "attention"), h, [h], scale, stride) + h


def memory_gates(w, features, m):
    """Equations 7-9."""
    mixed = convolve_depthwise(features, w["depthwise.weight"])
    i, o, g = np.split(pointwise(mixed, w["pointwise.weight"], w["pointwise.bias"]), 3)
    m = (1 - sigmoid(i)) * m + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * m, m


def self_attention_memory(w, h, m, scale=1.0, stride=1):
    z = attend(under(w, "attention"), h, [h, m], scale, stride)
    return memory_gates(under(w, "gates"), np.concatenate([z, h]), m)


def lstm(w, x, h, c):
    gates = (
        layer_norm(convolve(x, w["input.weight"]), w["input_scale"])
        + layer_norm(convolve(h, w["hidden.weight"]), w["hidden_scale"])
        + w["bias"][:, None, None]
    )
    i, f, o, g = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def cell(name, w, x, state, scale=1.0, stride=1):
    """One layer and one step: X_t and (H, C, M) to the new (H, C, M); networks without memory leave M alone."""
    h, c, m = state
    gates = under(w, "gates")
    if name == "convlstm":
        h, c = lstm(gates, x, h, c)
    elif name == "sa-convlstm-base":
        keys_x, keys_h = (w[f"{part}.attention.query.weight"].shape[0] for part in ("below", "before"))
        scale_x, scale_h = (scale(keys) if callable(scale) else scale for keys in (keys_x, keys_h))
        x = self_attention(under(w, "below"), x, scale_x, stride)
        h, c = lstm(gates, x, self_attention(under(w, "before"), h, scale_h, stride), c)
    elif name == "convlstm-memory":
        h, c = lstm(gates, x, h, c)
        h, m = memory_gates(under(w, "memory"), h, m)
    elif name == "sa-convlstm-no-zm":
        h, c = lstm(gates, x, h, c)
        z = attend(under(w, "attention"), h, [h], scale, stride)
        h, m = memory_gates(under(w, "memory"), np.concatenate([z, h]), m)
    else:
        h, c = lstm(gates, x, h, c)
        h, m = self_attention_memory(under(w, "memory"), h, m, scale, stride)
    return h, c, m


def gates_of(w, x, count):
    """A convolution to several gates, its norm and its bias where there are some, and the gates one by one."""
    y = convolve(x, w["weight"])
    y = layer_norm(y, w["scale"]) if "scale" in w else y
    y = y + w["bias"][:, None, None] if "bias" in w else y
    return np.split(y, count)


def memory_in_memory(w, x, c, n, s):
    """T, D, N and S of MIM; without a difference x there is neither D nor N."""
    d = np.zeros_like(s)
    if x is not None:
        x_i, x_f, x_g, x_o = gates_of(under(w, "change"), x, 4)
        n_i, n_f, n_g = gates_of(under(w, "n"), n, 3)
        n = sigmoid(x_f + n_f) * n + sigmoid(x_i + n_i) * np.tanh(x_g + n_g)
        d = sigmoid(x_o + gates_of(under(w, "new_n"), n, 1)[0]) * np.tanh(n)
    d_i, d_f, d_g, d_o = gates_of(under(w, "d"), d, 4)
    c_i, c_f, c_g, c_o = gates_of(under(w, "cell"), c, 4)
    s = sigmoid(d_f + c_f) * s + sigmoid(d_i + c_i) * np.tanh(d_g + c_g)
    return sigmoid(d_o + c_o + gates_of(under(w, "new_s"), s, 1)[0]) * np.tanh(s), d, n, s


def st_lstm(w, x, h, c, m, kept=None):
    """PredRNN's cell; also what C and M gained. What is kept may be given in place of f C."""
    if kept is None:
        x_i, x_f, x_g, x_i2, x_f2, x_g2, x_o = gates_of(under(w, "input"), x, 7)
        h_i, h_f, h_g, h_o = gates_of(under(w, "hidden"), h, 4)
    else:
        x_i, x_g, x_i2, x_f2, x_g2, x_o = gates_of(under(w, "input"), x, 6)
        h_i, h_g, h_o = gates_of(under(w, "hidden"), h, 3)
    m_i, m_f, m_g = gates_of(under(w, "memory"), m, 3)
    gain_c = sigmoid(x_i + h_i) * np.tanh(x_g + h_g)
    gain_m = sigmoid(x_i2 + m_i) * np.tanh(x_g2 + m_g)
    c = (sigmoid(x_f + h_f) * c if kept is None else kept) + gain_c
    m = sigmoid(x_f2 + m_f) * m + gain_m
    both = np.concatenate([c, m])
    o = sigmoid(x_o + h_o + gates_of(under(w, "output"), both, 1)[0])
    return o * np.tanh(pointwise(both, w["joined.weight"])), c, m, (gain_c, gain_m)


def causal_lstm(w, x, h, c, m, kept=None):
    if kept is None:
        x_i, x_f, x_g, x_i2, x_f2, x_g2, x_o = gates_of(under(w, "input"), x, 7)
        h_i, h_f, h_g, h_o = gates_of(under(w, "hidden"), h, 4)
        c_i, c_f, c_g = gates_of(under(w, "cell"), c, 3)
        kept = sigmoid(x_f + h_f + c_f) * c
    else:
        x_i, x_g, x_i2, x_f2, x_g2, x_o = gates_of(under(w, "input"), x, 6)
        h_i, h_g, h_o = gates_of(under(w, "hidden"), h, 3)
        c_i, c_g = gates_of(under(w, "cell"), c, 2)
    c = kept + sigmoid(x_i + h_i + c_i) * np.tanh(x_g + h_g + c_g)
    m_i, m_f, m_kept = gates_of(under(w, "memory"), m, 3)
    n_i, n_f, n_g, n_o = gates_of(under(w, "new_cell"), c, 4)
    m = sigmoid(x_f2 + m_f + n_f) * np.tanh(m_kept) + sigmoid(x_i2 + m_i + n_i) * np.tanh(x_g2 + n_g)
    o = np.tanh(x_o + h_o + n_o + gates_of(under(w, "new_memory"), m, 1)[0])
    return o * np.tanh(pointwise(np.concatenate([c, m]), w["joined.weight"])), c, m


def gradient_highway(w, x, z):
    x_p, x_s = gates_of(under(w, "input"), x, 2)
    z_p, z_s = gates_of(under(w, "state"), z, 2)
    s = sigmoid(x_s + z_s)
    return s * np.tanh(x_p + z_p) + (1 - s) * z


def likeness(shared, a, b):
    """Mean over channels of the absolute cosine over positions, after a 1×1 convolution of both."""
    total = 0.0
    a, b = pointwise(a, shared), pointwise(b, shared)
    for one, other in zip(a, b, strict=True):
        total += abs((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))
    return total / len(a)


PAPER = ("sa-convlstm", "sa-convlstm-base", "convlstm", "convlstm-memory", "sa-convlstm-no-zm")
ZIGZAG = ("predrnn", "predrnn-v2", "causal-lstm", "predrnn-plus-plus", "mim", "mim-star")
STACKS = (*PAPER, *ZIGZAG)
"""The networks that are one stack of layers, whose rollout is `rollout`; the oracles of others are in their tests."""


def mim_layer(config, w, x, n, states, memory):
    """A layer of MIM or MIM* and one step; its state also has what it read, N, S and D."""
    state, star = states[n], config.name == "mim-star"
    cell_of = causal_lstm if star else st_lstm
    if n == 0:
        state["h"], state["c"], memory = cell_of(under(w, "layer.cell"), x, state["h"], state["c"], memory)[:3]
        return memory
    if star and n == 1:
        x = state["z"] = gradient_highway(under(w, "highway"), x, state.get("z", np.zeros_like(x)))
        w = under(w, "layer")
    if "below" not in state:
        change = None
    elif config.cascade == "code" and n > 1:
        change = states[n - 1]["d"]
    else:
        change = x - state["below"]
    zeros = np.zeros_like(state["c"])
    within = change, state["c"], state.get("n", zeros), state.get("s", zeros)
    kept, state["d"], state["n"], state["s"] = memory_in_memory(under(w, "within"), *within)
    state["below"] = x
    state["h"], state["c"], memory = cell_of(under(w, "cell"), x, state["h"], state["c"], memory, kept)[:3]
    return memory


def zigzag_step(config, w, x, states):
    """One frame through all layers, with the memory of the top one of the step before; states are {name: map}."""
    memory = states[-1]["m"]
    for n, state in enumerate(states):
        part = under(w, f"layers.{n}")
        if config.name in ("mim", "mim-star"):
            memory = mim_layer(config, part, x, n, states, memory)
            x = state["h"]
        elif config.name == "predrnn":
            x, state["c"], memory, _ = st_lstm(under(part, "cell"), x, state["h"], state["c"], memory)
        elif config.name == "predrnn-v2":
            cell_weights = under(part, "layer.cell")
            x, state["c"], memory, gains = st_lstm(cell_weights, x, state["h"], state["c"], memory)
            state["alike"] = state.get("alike", 0.0) + likeness(w["layers.shared"], *gains)
        else:
            if config.name == "predrnn-plus-plus" and n == 1:
                z = state.get("z", np.zeros_like(x))
                x = state["z"] = gradient_highway(under(part, "highway"), x, z)
                part = under(part, "layer")
            x, state["c"], memory = causal_lstm(under(part, "cell"), x, state["h"], state["c"], memory)
        state["h"], state["m"] = x, memory
    return x


def fold(frame, patch):
    """(C, H, W) to (C·p·p, ⌈H/p⌉, ⌈W/p⌉), zeros below and to the right."""
    C, H, W = frame.shape
    rows, cols = -(-H // patch), -(-W // patch)
    y = np.zeros((C * patch * patch, rows, cols))
    for c in range(C):
        for row in range(H):
            for col in range(W):
                y[(c * patch + row % patch) * patch + col % patch, row // patch, col // patch] = frame[c, row, col]
    return y


def unfold(y, patch, shape):
    C, H, W = shape
    frame = np.zeros(shape)
    for c in range(C):
        for row in range(H):
            for col in range(W):
                frame[c, row, col] = y[(c * patch + row % patch) * patch + col % patch, row // patch, col // patch]
    return frame


def rollout(config, w, frames, history, steps, truth=None, penalty=False):
    """Predictions of frames 1..history+steps-1 of one sample, each step through all layers before the next.

    With `penalty` what PredRNN-V2 adds to its loss instead.
    """
    shape = frames[0].shape
    patch = config.patch
    rows, cols = -(-shape[1] // patch), -(-shape[2] // patch)
    scale = 1.0
    if config.score_scale == "sqrt":
        scale = config.hidden[0] ** -0.5 if config.key_channels is None else config.key_channels**-0.5
    zigzag = config.name in ZIGZAG
    zeros = [np.zeros((width, rows, cols)) for width in config.hidden]
    states = [{"h": z, "c": z, "m": z} for z in zeros] if zigzag else [(z, z, z) for z in zeros]
    predictions = []
    for t in range(history + steps - 1):
        known = t < history or (truth is not None and truth[t - history])
        frame = frames[t] if known else predictions[-1]
        x = fold(frame, patch)
        if zigzag:
            x = zigzag_step(config, w, x, states)
        for n in range(0 if zigzag else len(config.hidden)):
            states[n] = cell(config.name, under(w, f"layers.{n}"), x, states[n], scale, config.key_stride)
            x = states[n][0]
        out = unfold(pointwise(x, w["head.weight"], w["head.bias"]), patch, shape)
        predictions.append(frame + out if config.output == "change" else out)
    if penalty:
        return config.decoupling * np.mean([state["alike"] for state in states]) / (history + steps - 1)
    return np.stack(predictions)
