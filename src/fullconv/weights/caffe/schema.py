"""What Caffe's files may say: names and numbers of the settings, and protobuf messages made from them at run time.

The facts are those of caffe.proto (BVLC/caffe, src/caffe/proto): the layers of the FCN nets and of BVLC's ILSVRC nets
in full, everything else by name only. No code is generated, and Caffe is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

V1_TYPES = {
    1: ("ACCURACY", "Accuracy"), 2: ("BNLL", "BNLL"), 3: ("CONCAT", "Concat"), 4: ("CONVOLUTION", "Convolution"),
    5: ("DATA", "Data"), 6: ("DROPOUT", "Dropout"), 7: ("EUCLIDEAN_LOSS", "EuclideanLoss"), 8: ("FLATTEN", "Flatten"),
    9: ("HDF5_DATA", "HDF5Data"), 10: ("HDF5_OUTPUT", "HDF5Output"), 11: ("IM2COL", "Im2col"),
    12: ("IMAGE_DATA", "ImageData"), 13: ("INFOGAIN_LOSS", "InfogainLoss"), 14: ("INNER_PRODUCT", "InnerProduct"),
    15: ("LRN", "LRN"), 16: ("MULTINOMIAL_LOGISTIC_LOSS", "MultinomialLogisticLoss"), 17: ("POOLING", "Pooling"),
    18: ("RELU", "ReLU"), 19: ("SIGMOID", "Sigmoid"), 20: ("SOFTMAX", "Softmax"),
    21: ("SOFTMAX_LOSS", "SoftmaxWithLoss"), 22: ("SPLIT", "Split"), 23: ("TANH", "TanH"),
    24: ("WINDOW_DATA", "WindowData"), 25: ("ELTWISE", "Eltwise"), 26: ("POWER", "Power"),
    27: ("SIGMOID_CROSS_ENTROPY_LOSS", "SigmoidCrossEntropyLoss"), 28: ("HINGE_LOSS", "HingeLoss"),
    29: ("MEMORY_DATA", "MemoryData"), 30: ("ARGMAX", "ArgMax"), 31: ("THRESHOLD", "Threshold"),
    32: ("DUMMY_DATA", "DummyData"), 33: ("SLICE", "Slice"), 34: ("MVN", "MVN"), 35: ("ABSVAL", "AbsVal"),
    36: ("SILENCE", "Silence"), 37: ("CONTRASTIVE_LOSS", "ContrastiveLoss"), 38: ("EXP", "Exp"),
    39: ("DECONVOLUTION", "Deconvolution"),
    40: ("CROP", "Crop"),  # of the branch on which the FCNs were made; master never had it
}  # fmt: skip
"""The layer types of the old form (`layers`), by number: the name there, and the name today."""

ENUMS = {
    "LayerType": {old: number for number, (old, _) in V1_TYPES.items()},
    "Phase": {"TRAIN": 0, "TEST": 1},
    "PoolMethod": {"MAX": 0, "AVE": 1, "STOCHASTIC": 2},
    "RoundMode": {"CEIL": 0, "FLOOR": 1},
    "EltwiseOp": {"PROD": 0, "SUM": 1, "MAX": 2},
    "NormRegion": {"ACROSS_CHANNELS": 0, "WITHIN_CHANNEL": 1},
    "Normalization": {"FULL": 0, "VALID": 1, "BATCH_SIZE": 2, "NONE": 3},
}
"""The names of the settings that have names for values. On the wire they are numbers."""

# One entry per setting: its name, its number, what it is (* for any number of them), and Caffe's default.
# A dash is a setting that Caffe knows and that does not matter here.
_FIELDS = {
    "Net": "name 1 string, layers 2 V1Layer*, input 3 string*, input_dim 4 int32*, force_backward 5 -, state 6 -,"
    "debug_info 7 -, input_shape 8 BlobShape*, layer 100 Layer*",
    "BlobShape": "dim 1 int64*",
    "Rule": "phase 1 Phase, min_level 2 int32, max_level 3 int32, stage 4 string*, not_stage 5 string*",
    "Filler": "type 1 string=constant, value 2 float=0, min 3 -, max 4 -, mean 5 -, std 6 -, sparse 7 -,"
    "variance_norm 8 -",
    "Layer": "name 1 string, type 2 string, bottom 3 string*, top 4 string*, loss_weight 5 -, param 6 -, blobs 7 -,"
    "include 8 Rule*, exclude 9 Rule*, phase 10 -, propagate_down 11 -, transform_param 100 Transform,"
    "loss_param 101 Loss, accuracy_param 102 Accuracy, argmax_param 103 -, concat_param 104 Concat,"
    "contrastive_loss_param 105 -, convolution_param 106 Convolution, data_param 107 -, dropout_param 108 Dropout,"
    "dummy_data_param 109 -, eltwise_param 110 Eltwise, exp_param 111 -, hdf5_data_param 112 -,"
    "hdf5_output_param 113 -, hinge_loss_param 114 -, image_data_param 115 -, infogain_loss_param 116 -,"
    "inner_product_param 117 InnerProduct, lrn_param 118 LRN, memory_data_param 119 -, mvn_param 120 -,"
    "pooling_param 121 Pooling, power_param 122 Power, relu_param 123 ReLU, sigmoid_param 124 -,"
    "softmax_param 125 Softmax, slice_param 126 Slice, tanh_param 127 -, threshold_param 128 -,"
    "window_data_param 129 -, python_param 130 Python, prelu_param 131 -, spp_param 132 -, reshape_param 133 -,"
    "log_param 134 -, flatten_param 135 Flatten, reduction_param 136 -, embed_param 137 -, tile_param 138 -,"
    "batch_norm_param 139 BatchNorm, elu_param 140 -, bias_param 141 Bias, scale_param 142 Scale,"
    "input_param 143 Input, crop_param 144 Crop, parameter_param 145 -, recurrent_param 146 -, swish_param 147 -,"
    "clip_param 148 -",
    "V1Layer": "layer 1 -, bottom 2 string*, top 3 string*, name 4 string, type 5 LayerType, blobs 6 -, blobs_lr 7 -,"
    "weight_decay 8 -, concat_param 9 Concat, convolution_param 10 Convolution, data_param 11 -,"
    "dropout_param 12 Dropout, hdf5_data_param 13 -, hdf5_output_param 14 -, image_data_param 15 -,"
    "infogain_loss_param 16 -, inner_product_param 17 InnerProduct, lrn_param 18 LRN, pooling_param 19 Pooling,"
    "window_data_param 20 -, power_param 21 Power, memory_data_param 22 -, argmax_param 23 -,"
    "eltwise_param 24 Eltwise, threshold_param 25 -, dummy_data_param 26 -, accuracy_param 27 Accuracy,"
    "hinge_loss_param 29 -, relu_param 30 ReLU, slice_param 31 Slice, include 32 Rule*, exclude 33 Rule*,"
    "mvn_param 34 -, loss_weight 35 -, transform_param 36 Transform, tanh_param 37 -, sigmoid_param 38 -,"
    "softmax_param 39 Softmax, contrastive_loss_param 40 -, exp_param 41 -, loss_param 42 Loss, param 1001 -,"
    "blob_share_mode 1002 -",
    "Transform": "scale 1 float=1, mirror 2 bool=false, crop_size 3 uint32=0, mean_file 4 string, mean_value 5 float*,"
    "force_color 6 -, force_gray 7 -",
    "Loss": "ignore_label 1 int32, normalize 2 bool, normalization 3 Normalization=VALID",
    "Accuracy": "top_k 1 uint32=1, axis 2 int32=1, ignore_label 3 int32",
    "BatchNorm": "use_global_stats 1 bool, moving_average_fraction 2 float=0.999, eps 3 float=1e-5",
    "Bias": "axis 1 int32=1, num_axes 2 int32=1, filler 3 Filler",
    "Concat": "concat_dim 1 uint32, axis 2 int32=1",
    "Convolution": "num_output 1 uint32, bias_term 2 bool=true, pad 3 uint32*, kernel_size 4 uint32*, group 5 uint32=1,"
    "stride 6 uint32*, weight_filler 7 Filler, bias_filler 8 Filler, pad_h 9 uint32, pad_w 10 uint32,"
    "kernel_h 11 uint32, kernel_w 12 uint32, stride_h 13 uint32, stride_w 14 uint32, engine 15 -, axis 16 int32=1,"
    "force_nd_im2col 17 -, dilation 18 uint32*",
    "Crop": "axis 1 int32=2, offset 2 uint32*",
    "Dropout": "dropout_ratio 1 float=0.5",
    "Eltwise": "operation 1 EltwiseOp=SUM, coeff 2 float*, stable_prod_grad 3 -",
    "Flatten": "axis 1 int32=1, end_axis 2 int32=-1",
    "InnerProduct": "num_output 1 uint32, bias_term 2 bool=true, weight_filler 3 Filler, bias_filler 4 Filler,"
    "axis 5 int32=1, transpose 6 bool=false",
    "Input": "shape 1 BlobShape*",
    "LRN": "local_size 1 uint32=5, alpha 2 float=1, beta 3 float=0.75, norm_region 4 NormRegion=ACROSS_CHANNELS,"
    "k 5 float=1, engine 6 -",
    "Pooling": "pool 1 PoolMethod=MAX, kernel_size 2 uint32, stride 3 uint32, pad 4 uint32, kernel_h 5 uint32,"
    "kernel_w 6 uint32, stride_h 7 uint32, stride_w 8 uint32, pad_h 9 uint32, pad_w 10 uint32, engine 11 -,"
    "global_pooling 12 bool=false, round_mode 13 RoundMode=CEIL",
    "Power": "power 1 float=1, scale 2 float=1, shift 3 float=0",
    "Python": "module 1 string, layer 2 string, param_str 3 string=, share_in_parallel 4 -",
    "ReLU": "negative_slope 1 float=0, engine 2 -",
    "Scale": "axis 1 int32=1, num_axes 2 int32=1, filler 3 Filler, bias_term 4 bool=false, bias_filler 5 Filler",
    "Slice": "slice_dim 1 uint32, slice_point 2 uint32*, axis 3 int32=1",
    "Softmax": "engine 1 -, axis 2 int32=1",
}


@dataclass(frozen=True)
class Field:
    """One setting: its name and number, the kind of its value, and Caffe's default as text (None where it has none).

    kind: a scalar of protobuf, a name in `ENUMS`, a name in `FIELDS` (settings within settings), or ``-`` for what
    is known and not read.
    """

    name: str
    number: int
    kind: str
    repeated: bool
    default: str | None


def _field(entry: str) -> Field:
    name, number, kind = entry.split()
    kind, equals, default = kind.partition("=")
    return Field(name, int(number), kind.removesuffix("*"), kind.endswith("*"), default if equals else None)


FIELDS = {
    message: {field.name: field for field in map(_field, entries.split(","))} for message, entries in _FIELDS.items()
}
"""The settings of every message, by name."""


def _message_classes() -> dict[str, Any]:
    """The protobuf class of every message. Names with values are plain numbers in it, so that an unknown number can
    be reported; strings are bytes, because old files hold paths in any encoding.
    """
    proto = descriptor_pb2.FieldDescriptorProto
    kinds = {kind: getattr(proto, f"TYPE_{kind.upper()}") for kind in ("int32", "int64", "uint32", "float", "bool")}
    kinds |= {"string": proto.TYPE_BYTES} | dict.fromkeys(ENUMS, proto.TYPE_INT32)
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, fields in FIELDS.items():
        described = file.message_type.add(name=message)
        for field in fields.values():
            if field.kind == "-":
                continue
            label = proto.LABEL_REPEATED if field.repeated else proto.LABEL_OPTIONAL
            inner = field.kind in FIELDS
            described.field.add(
                name=field.name,
                number=field.number,
                label=label,
                type=proto.TYPE_MESSAGE if inner else kinds[field.kind],
                type_name=f".caffe.{field.kind}" if inner else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in FIELDS}


MESSAGES = _message_classes()
"""The protobuf class of every message, made at import in a pool of its own."""
