"""The part of caffe.proto that is read, and protobuf message classes built from it at run time.

The facts are those of caffe.proto (BVLC/caffe, src/caffe/proto): the layers of the FCNs and of BVLC's ILSVRC nets in
full, the settings of other layers by name only. There is no generated code, and Caffe is not needed.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# The last is of the branch on which the FCNs were made; BVLC's master never had it.
_V1_TYPES = """
ACCURACY Accuracy BNLL BNLL CONCAT Concat CONVOLUTION Convolution DATA Data DROPOUT Dropout EUCLIDEAN_LOSS EuclideanLoss
FLATTEN Flatten HDF5_DATA HDF5Data HDF5_OUTPUT HDF5Output IM2COL Im2col IMAGE_DATA ImageData INFOGAIN_LOSS InfogainLoss
INNER_PRODUCT InnerProduct LRN LRN MULTINOMIAL_LOGISTIC_LOSS MultinomialLogisticLoss POOLING Pooling RELU ReLU
SIGMOID Sigmoid SOFTMAX Softmax SOFTMAX_LOSS SoftmaxWithLoss SPLIT Split TANH TanH WINDOW_DATA WindowData
ELTWISE Eltwise POWER Power SIGMOID_CROSS_ENTROPY_LOSS SigmoidCrossEntropyLoss HINGE_LOSS HingeLoss
MEMORY_DATA MemoryData ARGMAX ArgMax THRESHOLD Threshold DUMMY_DATA DummyData SLICE Slice MVN MVN ABSVAL AbsVal
SILENCE Silence CONTRASTIVE_LOSS ContrastiveLoss EXP Exp DECONVOLUTION Deconvolution CROP Crop
"""

_pairs = iter(_V1_TYPES.split())
V1_TYPES = dict(enumerate(zip(_pairs, _pairs, strict=True), start=1))
"""The layer types of the old format (`layers`) by number: the name there, and the name today."""

ENUMS = {
    "LayerType": {old: number for number, (old, _) in V1_TYPES.items()},
    **{
        name: {value: number for number, value in enumerate(values.split())}
        for name, values in {
            "Phase": "TRAIN TEST",
            "PoolMethod": "MAX AVE STOCHASTIC",
            "RoundMode": "CEIL FLOOR",
            "EltwiseOp": "PROD SUM MAX",
            "NormRegion": "ACROSS_CHANNELS WITHIN_CHANNEL",
            "Normalization": "FULL VALID BATCH_SIZE NONE",
            "Engine": "DEFAULT CAFFE CUDNN",
            "VarianceNorm": "FAN_IN FAN_OUT AVERAGE",
            "DimCheckMode": "STRICT PERMISSIVE",
        }.items()
    },
}
"""The enumerations, each with its values by name."""

# One entry per field: name, number, type (* if repeated), and Caffe's default. A dash before the type marks a field
# that is parsed and not used; a dash alone, a message whose content is skipped.
_FIELDS = {
    "Net": "name 1 string, layers 2 V1Layer*, input 3 string*, input_dim 4 int32*, force_backward 5 -bool, state 6 -,"
    "debug_info 7 -bool, input_shape 8 BlobShape*, layer 100 Layer*",
    "BlobShape": "dim 1 int64*",
    "Blob": "num 1 int32=0, channels 2 int32=0, height 3 int32=0, width 4 int32=0, shape 7 BlobShape",
    "Rule": "phase 1 Phase, min_level 2 int32, max_level 3 int32, stage 4 string*, not_stage 5 string*",
    "Filler": "type 1 string=constant, value 2 float=0, min 3 -float, max 4 -float, mean 5 -float, std 6 -float,"
    "sparse 7 -int32, variance_norm 8 -VarianceNorm",
    "Layer": "name 1 string, type 2 string, bottom 3 string*, top 4 string*, loss_weight 5 -float*, param 6 -*,"
    "blobs 7 -*, include 8 Rule*, exclude 9 Rule*, phase 10 -Phase, propagate_down 11 -bool*,"
    "transform_param 100 Transform, loss_param 101 Loss, accuracy_param 102 Accuracy, argmax_param 103 -,"
    "concat_param 104 Concat, contrastive_loss_param 105 -, convolution_param 106 Convolution, data_param 107 -,"
    "dropout_param 108 Dropout, dummy_data_param 109 -, eltwise_param 110 Eltwise, exp_param 111 -,"
    "hdf5_data_param 112 -, hdf5_output_param 113 -, hinge_loss_param 114 -, image_data_param 115 -,"
    "infogain_loss_param 116 -, inner_product_param 117 InnerProduct, lrn_param 118 LRN, memory_data_param 119 -,"
    "mvn_param 120 -, pooling_param 121 Pooling, power_param 122 Power, relu_param 123 ReLU, sigmoid_param 124 -,"
    "softmax_param 125 Softmax, slice_param 126 Slice, tanh_param 127 -, threshold_param 128 -,"
    "window_data_param 129 -, python_param 130 Python, prelu_param 131 -, spp_param 132 -, reshape_param 133 -,"
    "log_param 134 -, flatten_param 135 Flatten, reduction_param 136 -, embed_param 137 -, tile_param 138 -,"
    "batch_norm_param 139 BatchNorm, elu_param 140 -, bias_param 141 Bias, scale_param 142 Scale,"
    "input_param 143 Input, crop_param 144 Crop, parameter_param 145 -, recurrent_param 146 -, swish_param 147 -,"
    "clip_param 148 -",
    "V1Layer": "bottom 2 string*, top 3 string*, name 4 string, type 5 LayerType, blobs 6 -*, blobs_lr 7 -float*,"
    "weight_decay 8 -float*, concat_param 9 Concat, convolution_param 10 Convolution, data_param 11 -,"
    "dropout_param 12 Dropout, hdf5_data_param 13 -, hdf5_output_param 14 -, image_data_param 15 -,"
    "infogain_loss_param 16 -, inner_product_param 17 InnerProduct, lrn_param 18 LRN, pooling_param 19 Pooling,"
    "window_data_param 20 -, power_param 21 Power, memory_data_param 22 -, argmax_param 23 -,"
    "eltwise_param 24 Eltwise, threshold_param 25 -, dummy_data_param 26 -, accuracy_param 27 Accuracy,"
    "hinge_loss_param 29 -, relu_param 30 ReLU, slice_param 31 Slice, include 32 Rule*, exclude 33 Rule*,"
    "mvn_param 34 -, loss_weight 35 -float*, transform_param 36 Transform, tanh_param 37 -, sigmoid_param 38 -,"
    "softmax_param 39 Softmax, contrastive_loss_param 40 -, exp_param 41 -, loss_param 42 Loss, param 1001 -string*,"
    "blob_share_mode 1002 -DimCheckMode*",
    "Transform": "scale 1 float=1, mirror 2 bool=false, crop_size 3 uint32=0, mean_file 4 string, mean_value 5 float*,"
    "force_color 6 -bool, force_gray 7 -bool",
    "Loss": "ignore_label 1 int32, normalize 2 bool, normalization 3 Normalization=VALID",
    "Accuracy": "top_k 1 uint32=1, axis 2 int32=1, ignore_label 3 int32",
    "BatchNorm": "use_global_stats 1 bool, moving_average_fraction 2 float=0.999, eps 3 float=1e-5",
    "Bias": "axis 1 int32=1, num_axes 2 int32=1, filler 3 Filler",
    "Concat": "concat_dim 1 uint32, axis 2 int32=1",
    "Convolution": "num_output 1 uint32, bias_term 2 bool=true, pad 3 uint32*, kernel_size 4 uint32*, group 5 uint32=1,"
    "stride 6 uint32*, weight_filler 7 Filler, bias_filler 8 Filler, pad_h 9 uint32, pad_w 10 uint32,"
    "kernel_h 11 uint32, kernel_w 12 uint32, stride_h 13 uint32, stride_w 14 uint32, engine 15 -Engine,"
    "axis 16 int32=1, force_nd_im2col 17 -bool, dilation 18 uint32*",
    "Crop": "axis 1 int32=2, offset 2 uint32*",
    "Dropout": "dropout_ratio 1 float=0.5",
    "Eltwise": "operation 1 EltwiseOp=SUM, coeff 2 float*, stable_prod_grad 3 -bool",
    "Flatten": "axis 1 int32=1, end_axis 2 int32=-1",
    "InnerProduct": "num_output 1 uint32, bias_term 2 bool=true, weight_filler 3 Filler, bias_filler 4 Filler,"
    "axis 5 int32=1, transpose 6 bool=false",
    "Input": "shape 1 BlobShape*",
    "LRN": "local_size 1 uint32=5, alpha 2 float=1, beta 3 float=0.75, norm_region 4 NormRegion=ACROSS_CHANNELS,"
    "k 5 float=1, engine 6 -Engine",
    "Pooling": "pool 1 PoolMethod=MAX, kernel_size 2 uint32, stride 3 uint32, pad 4 uint32, kernel_h 5 uint32,"
    "kernel_w 6 uint32, stride_h 7 uint32, stride_w 8 uint32, pad_h 9 uint32, pad_w 10 uint32, engine 11 -Engine,"
    "global_pooling 12 bool=false, round_mode 13 RoundMode=CEIL",
    "Power": "power 1 float=1, scale 2 float=1, shift 3 float=0",
    "Python": "module 1 string, layer 2 string, param_str 3 string=, share_in_parallel 4 -bool",
    "ReLU": "negative_slope 1 float=0, engine 2 -Engine",
    "Scale": "axis 1 int32=1, num_axes 2 int32=1, filler 3 Filler, bias_term 4 bool=false, bias_filler 5 Filler",
    "Slice": "slice_dim 1 uint32, slice_point 2 uint32*, axis 3 int32=1",
    "Softmax": "engine 1 -Engine, axis 2 int32=1",
    "Skipped": "",
}


def _build_messages() -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Build the protobuf class of every message, and list the names of its fields that are used.

    Strings are bytes, because old files hold paths in any encoding.
    """
    proto = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for enum, values in ENUMS.items():
        # In a message of its own: the values of an enumeration share the scope around it, in which NONE exists twice.
        scope = file.message_type.add(name="Enum" + enum).enum_type.add(name=enum)
        for value, index in values.items():
            scope.value.add(name=value, number=index)
    used: dict[str, list[str]] = {}
    for message, entries in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind in map(str.split, filter(None, entries.split(","))):
            kind, equals, default = kind.partition("=")
            base = kind.strip("-*") or "Skipped"
            used.setdefault(message, []).extend([] if kind.startswith("-") else [name])
            field = described.field.add(name=name, number=int(number), default_value=default if equals else None)
            field.label = proto.LABEL_REPEATED if kind.endswith("*") else proto.LABEL_OPTIONAL
            if base in ENUMS:
                field.type, field.type_name = proto.TYPE_ENUM, f".caffe.Enum{base}.{base}"
            elif base in _FIELDS:
                field.type, field.type_name = proto.TYPE_MESSAGE, f".caffe.{base}"
            else:
                field.type = proto.TYPE_BYTES if base == "string" else proto.Type.Value(f"TYPE_{base.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = {name: pool.FindMessageTypeByName(f"caffe.{name}") for name in _FIELDS}
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in names.items()}, used


MESSAGES, USED = _build_messages()
"""The protobuf class of every message, in a descriptor pool of its own, and the fields of it that are used here."""
