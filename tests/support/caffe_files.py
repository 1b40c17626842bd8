"""Writes Caffe's files, for tests: nets as text and as .caffemodel bytes, without the tables of the reader.

A layer is a dict: name, type (today's name), bottom and top (a name or several), any ``*_param`` as a dict, include
or exclude as a dict, and blobs as arrays. Numbers are those of caffe.proto.
"""

import re
import struct

import numpy as np

ENUMS = {
    "pool": ["MAX", "AVE", "STOCHASTIC"], "operation": ["PROD", "SUM", "MAX"], "phase": ["TRAIN", "TEST"],
    "norm_region": ["ACROSS_CHANNELS", "WITHIN_CHANNEL"], "round_mode": ["CEIL", "FLOOR"],
    "engine": ["DEFAULT", "CAFFE", "CUDNN"],
}  # fmt: skip
FILLER = {"type": 1, "value": 2, "std": 6}
WINDOW = {"kernel_size": 4, "stride": 6, "pad": 3, "kernel_h": 11, "kernel_w": 12, "stride_h": 13, "stride_w": 14,
          "pad_h": 9, "pad_w": 10}  # fmt: skip
# Of every param: its number today, its number in the old form (None where it had none), its settings.
PARAMS = {
    "transform_param": (100, 36, {"scale": 1, "mirror": 2, "crop_size": 3, "mean_value": 5}),
    "loss_param": (101, 42, {"ignore_label": 1, "normalize": 2}),
    "concat_param": (104, 9, {"concat_dim": 1, "axis": 2}),
    "convolution_param": (106, 10, {"num_output": 1, "bias_term": 2, "group": 5, "engine": 15, "dilation": 18,
                                    "weight_filler": 7, "bias_filler": 8, **WINDOW}),
    "dropout_param": (108, 12, {"dropout_ratio": 1}),
    "eltwise_param": (110, 24, {"operation": 1, "coeff": 2}),
    "inner_product_param": (117, 17, {"num_output": 1, "bias_term": 2, "axis": 5}),
    "lrn_param": (118, 18, {"local_size": 1, "alpha": 2, "beta": 3, "norm_region": 4, "k": 5}),
    "pooling_param": (121, 19, {"pool": 1, "kernel_size": 2, "stride": 3, "pad": 4, "kernel_h": 5, "kernel_w": 6,
                                "stride_h": 7, "stride_w": 8, "pad_h": 9, "pad_w": 10, "global_pooling": 12,
                                "round_mode": 13}),
    "power_param": (122, 21, {"power": 1, "scale": 2, "shift": 3}),
    "relu_param": (123, 30, {"negative_slope": 1}),
    "softmax_param": (125, 39, {"axis": 2}),
    "slice_param": (126, 31, {"axis": 3, "slice_point": 2}),
    "python_param": (130, None, {"module": 1, "layer": 2, "param_str": 3}),
    "flatten_param": (135, None, {"axis": 1, "end_axis": 2}),
    "batch_norm_param": (139, None, {"use_global_stats": 1, "eps": 3}),
    "scale_param": (142, None, {"axis": 1, "num_axes": 2, "filler": 3, "bias_term": 4}),
    "input_param": (143, None, {"shape": 1}),
    "crop_param": (144, None, {"axis": 1, "offset": 2}),
}  # fmt: skip
OLD_TYPES = {
    "Accuracy": 1, "Concat": 3, "Convolution": 4, "Data": 5, "Dropout": 6, "Flatten": 8, "InnerProduct": 14,
    "LRN": 15, "Pooling": 17, "ReLU": 18, "Softmax": 20, "SoftmaxWithLoss": 21, "Split": 22, "Eltwise": 25,
    "Power": 26, "Slice": 33, "Silence": 36, "Deconvolution": 39, "Crop": 40,
}  # fmt: skip
RULE = {"phase": 1, "stage": 4, "not_stage": 5, "min_level": 2}
INNER = {"weight_filler": FILLER, "bias_filler": FILLER, "filler": FILLER, "shape": {"dim": 1}}
FLOATS = {"scale", "mean_value", "dropout_ratio", "coeff", "alpha", "beta", "k", "power", "shift", "negative_slope",
          "eps", "value", "std"}  # fmt: skip


def several(value):
    return [value] if isinstance(value, str | dict | int | float) else list(value)


def varint(number):
    number &= 2**64 - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number, value):
    """One field: a length and bytes for bytes, a float in 4 bytes, a varint for the rest."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def settings(values, numbers):
    """The bytes of a message of settings."""
    out = b""
    for name, value in values.items():
        for item in several(value):
            if isinstance(item, dict):
                item = settings(item, INNER[name])
            elif name in ENUMS:
                item = ENUMS[name].index(item)
            elif isinstance(item, str):
                item = item.encode()
            elif name in FLOATS:
                item = float(item)
            out += field(numbers[name], item)
    return out


def blob_bytes(array, packed=True, legacy_shape=False, double=False):
    """A BlobProto; a legacy shape has four dims, ones before those of the array."""
    array = np.asarray(array)
    if legacy_shape:
        dims = (1,) * (4 - array.ndim) + array.shape
        out = b"".join(field(number, dim) for number, dim in zip((1, 2, 3, 4), dims, strict=True))
    else:
        out = field(7, field(1, b"".join(map(varint, array.shape))))
    kind, number, wire = ("<f8", 8, 1) if double else ("<f4", 5, 5)
    values = np.ascontiguousarray(array, kind).reshape(-1)
    if packed:
        return out + field(number, values.tobytes())
    rows = np.empty((values.size, 1 + values.itemsize), np.uint8)
    rows[:, 0] = number << 3 | wire
    rows[:, 1:] = values.view(np.uint8).reshape(-1, values.itemsize)
    return out + rows.tobytes()


def layer_bytes(layer, version="V2", **blob_options):
    """The content of a layer message of either form."""
    old = version == "V1"
    bottom, top, name, kind, blobs, include = (2, 3, 4, 5, 6, 32) if old else (3, 4, 1, 2, 7, 8)
    out = field(name, layer["name"].encode())
    out += field(kind, OLD_TYPES[layer["type"]] if old else layer["type"].encode())
    out += b"".join(field(bottom, item.encode()) for item in several(layer.get("bottom", [])))
    out += b"".join(field(top, item.encode()) for item in several(layer.get("top", [])))
    for key, number in (("include", include), ("exclude", include + 1)):
        out += b"".join(field(number, settings(rule, RULE)) for rule in several(layer.get(key, [])))
    out += b"".join(field(blobs, blob_bytes(array, **blob_options)) for array in layer.get("blobs", ()))
    for key, value in layer.items():
        if key.endswith("_param"):
            today, once, numbers = PARAMS[key]
            out += field(once if old else today, settings(value, numbers))
    return out


def caffemodel_bytes(layers, version="V2", packed=True, legacy_shape=False, double=False, name="net", inputs=()):
    """A .caffemodel; V1 is the form with `layers`, which has no Scale, BatchNorm or Crop offset."""
    out = field(1, name.encode())
    out += b"".join(field(3, blob.encode()) for blob, _ in inputs)
    out += b"".join(field(8, field(1, b"".join(map(varint, shape)))) for _, shape in inputs)
    options = {"packed": packed, "legacy_shape": legacy_shape, "double": double}
    number = 2 if version == "V1" else 100
    return out + b"".join(field(number, layer_bytes(layer, version, **options)) for layer in layers)


def write_caffemodel(path, layers, version="V2", packed=True, legacy_shape=False, double=False):
    """Write the layers with their blobs as a .caffemodel."""
    path.write_bytes(caffemodel_bytes(layers, version, packed, legacy_shape, double))


def text(values, indent=""):
    """Settings as the text of a prototxt."""
    lines = []
    for name, value in values.items():
        for item in several(value):
            if isinstance(item, dict):
                lines += [f"{indent}{name} {{", *text(item, indent + "  "), f"{indent}}}"]
            elif isinstance(item, bool):
                lines.append(f"{indent}{name}: {str(item).lower()}")
            elif isinstance(item, str) and name not in ENUMS:
                escaped = item.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
                lines.append(f'{indent}{name}: "{escaped}"')
            else:
                lines.append(f"{indent}{name}: {item}")
    return lines


def old_name(kind):
    """The name of a type in the old form: InnerProduct is INNER_PRODUCT there."""
    return {"SoftmaxWithLoss": "SOFTMAX_LOSS"}.get(kind) or re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", kind).upper()


def prototxt(layers, inputs=(), version="V2", name="net"):
    """The text of a net; `inputs` are (name, shape)."""
    lines = [f'name: "{name}"']
    for blob, shape in inputs:
        lines += [f'input: "{blob}"', *text({"input_shape": {"dim": list(shape)}})]
    for layer in layers:
        content = text({key: value for key, value in layer.items() if key != "blobs"}, "  ")
        if version == "V1":
            content = [
                f"  type: {old_name(layer['type'])}" if line.startswith("  type: ") else line for line in content
            ]
        lines += ["layers {" if version == "V1" else "layer {", *content, "}"]
    return "\n".join(lines) + "\n"


def write_prototxt(path, layers, inputs=(), version="V2"):
    """Write the layers without their blobs as a .prototxt."""
    path.write_text(prototxt(layers, inputs, version))
