"""One language of an encoder as an ONNX graph: a plain encoder with that language's adapter in every layer.

The graph is written node by node and not traced: our packing, routing and product order are for torch, while ONNX
Runtime wants padded grids and fuses attention and normalisation of a plain graph by itself. Tests hold it to torch.

    input_ids, attention_mask  [B, L] int64
    vectors                    [B, L, E] float32, length one, zeros behind a text (single: [B, 1, E])
    kept                       [B, L] bool: tokens that a passage keeps, the skip list applied (single: absent)

Shapes: B texts, L tokens of the longest, H hidden size, A heads, E dimensions.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from colbertxm.errors import MissingExtra, UserError
from colbertxm.model.encoder import Encoder

OPSET = 20  # the first with Gelu
FAR = -1e9  # added to products with tokens that are not there


def import_onnx() -> Any:
    """Raises MissingExtra without it."""
    try:
        import onnx
    except ImportError:
        raise MissingExtra("onnx", "onnx") from None
    return onnx


class _Graph:
    """Nodes and weights in the order in which they are written; each method returns the name of its result."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def node(self, kind: str, *given: str, out: str | None = None, **attributes: Any) -> str:
        name = out or f"{kind.lower()}-{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(given), [name], name=f"node-{name}", **attributes))
        return name

    def weight(self, array: Any) -> str:
        name = f"weight-{len(self.weights)}"
        values = array.detach().cpu().float().numpy() if isinstance(array, Tensor) else array
        self.weights.append(self.onnx.numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def linear(self, x: str, module: nn.Linear) -> str:
        product = self.node("MatMul", x, self.weight(module.weight.T))
        return product if module.bias is None else self.node("Add", product, self.weight(module.bias))

    def norm(self, x: str, module: nn.LayerNorm) -> str:
        return self.node("LayerNormalization", x, self.weight(module.weight), self.weight(module.bias),
                         axis=-1, epsilon=module.eps)  # fmt: skip


def write_graph(path: Path, encoder: Encoder) -> None:
    """Write the graph of an encoder that has one adapter. Raises UserError for one with more."""
    onnx = import_onnx()
    names = encoder.xmod.config.languages
    if len(names) != 1:
        raise UserError(f"to=onnx writes one language, this model has {len(names)}: give lang=...")
    graph, helper, types = _Graph(onnx), onnx.helper, onnx.TensorProto
    mask = graph.node("Cast", "attention_mask", to=types.FLOAT)
    hidden = _embedded(graph, encoder)
    absent = graph.node("Mul", graph.node("Sub", graph.weight(np.float32(1)), mask), graph.weight(np.float32(FAR)))
    bias = graph.node("Unsqueeze", absent, graph.weight(np.array([1, 2], np.int64)))
    for layer in encoder.xmod.encoder.layer:
        hidden = _layer(graph, hidden, bias, layer, names[0], encoder.xmod.config.num_attention_heads)
    single = encoder.pooling == "single"
    _head(graph, encoder, hidden, graph.node("Unsqueeze", mask, graph.weight(np.array([2], np.int64))))
    outputs = [helper.make_tensor_value_info("vectors", types.FLOAT, ["B", 1 if single else "L", encoder.dim])]
    if not single:
        skipped = np.ones(encoder.xmod.config.vocab_size, np.float32)
        skipped[sorted(encoder.tokens.skipped)] = 0
        kept = graph.node("Mul", graph.node("Gather", graph.weight(skipped), "input_ids"), mask)
        graph.node("Cast", kept, out="kept", to=types.BOOL)
        outputs.append(helper.make_tensor_value_info("kept", types.BOOL, ["B", "L"]))
    inputs = [helper.make_tensor_value_info(n, types.INT64, ["B", "L"]) for n in ("input_ids", "attention_mask")]
    made = helper.make_graph(graph.nodes, "colbertxm", inputs, outputs, graph.weights)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=opsets, producer_name="colbertxm", ir_version=10)
    # Beside the graph, for one file of protobuf holds at most 2 GB.
    onnx.save_model(model, str(path), save_as_external_data=True, location=f"{path.name}.data")


def _embedded(graph: _Graph, encoder: Encoder) -> str:
    """Words, positions (which follow the padding id, as in RoBERTa) and the one token type."""
    embeddings, first = encoder.xmod.embeddings, encoder.xmod.config.pad_token_id + 1
    words = graph.node("Gather", graph.weight(embeddings.word_embeddings.weight), "input_ids")
    length = graph.node("Gather", graph.node("Shape", "input_ids"), graph.weight(np.int64(1)))
    last = graph.node("Add", length, graph.weight(np.int64(first)))
    places = graph.node("Range", graph.weight(np.int64(first)), last, graph.weight(np.int64(1)))
    table = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
    return graph.norm(graph.node("Add", words, graph.node("Gather", graph.weight(table), places)), embeddings.LayerNorm)


def _layer(graph: _Graph, hidden: str, bias: str, layer: Any, adapter: str, heads: int) -> str:
    own, size = layer.attention.self, layer.attention.self.query.out_features // heads
    split = graph.weight(np.array([0, 0, heads, size], np.int64))

    def parted(module: nn.Linear, order: list[int]) -> str:
        return graph.node("Transpose", graph.node("Reshape", graph.linear(hidden, module), split), perm=order)

    query, key = parted(own.query, [0, 2, 1, 3]), parted(own.key, [0, 2, 3, 1])
    products = graph.node("Mul", graph.node("MatMul", query, key), graph.weight(np.float32(size**-0.5)))
    shares = graph.node("Softmax", graph.node("Add", products, bias), axis=-1)
    context = graph.node("MatMul", shares, parted(own.value, [0, 2, 1, 3]))
    together = graph.weight(np.array([0, 0, heads * size], np.int64))
    context = graph.node("Reshape", graph.node("Transpose", context, perm=[0, 2, 1, 3]), together)
    out = layer.attention.output
    attended = graph.norm(graph.node("Add", graph.linear(context, out.dense), hidden), out.LayerNorm)
    inner = graph.node("Gelu", graph.linear(attended, layer.intermediate.dense))
    return _output(graph, graph.node("Add", graph.linear(inner, layer.output.dense), attended), layer.output, adapter)


def _output(graph: _Graph, hidden: str, output: Any, adapter: str) -> str:
    """As `xmod.Output`, with one adapter."""
    normed = hidden
    if output.adapter_layer_norm is not None:
        normed = graph.norm(hidden, output.adapter_layer_norm)
    elif output.reuse_layer_norm:
        normed = graph.norm(hidden, output.LayerNorm)
    module = output.adapter_modules[adapter]
    adapted = graph.linear(graph.node("Gelu", graph.linear(normed, module.dense1)), module.dense2)
    skip = normed if output.ln_before_adapter else hidden
    return graph.norm(graph.node("Add", skip, adapted), output.LayerNorm)


def _head(graph: _Graph, encoder: Encoder, hidden: str, mask: str) -> None:
    """Pooling where there is one vector a text, projection, length one."""
    if encoder.pooling == "single":
        axis = graph.weight(np.array([1], np.int64))
        total = graph.node("ReduceSum", graph.node("Mul", hidden, mask), axis, keepdims=1)
        hidden = graph.node("Div", total, graph.node("ReduceSum", mask, axis, keepdims=1))
    values = graph.linear(hidden, encoder.linear) if encoder.linear is not None else hidden
    last = graph.weight(np.array([-1], np.int64))
    length = graph.node("ReduceL2", values, last, keepdims=1)
    long = graph.node("Max", length, graph.weight(np.float32(1e-12)))
    if encoder.pooling == "single":
        graph.node("Div", values, long, out="vectors")
    else:
        graph.node("Mul", graph.node("Div", values, long), mask, out="vectors")


def quantised(path: Path, target: Path) -> None:
    """The graph in `path` with weights as bytes and activations rounded as they come, as `target`."""
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError:
        raise MissingExtra("onnxruntime", "onnx") from None
    logger = logging.getLogger()  # it warns there of a step that graphs with control flow need
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        _quantise(quantize_dynamic, QuantType, path, target)
    finally:
        logger.setLevel(level)


def _quantise(quantize_dynamic: Any, kinds: Any, path: Path, target: Path) -> None:
    quantize_dynamic(str(path), str(target), weight_type=kinds.QInt8, per_channel=True, use_external_data_format=True)
