"""Nets with their weights: the bytes are read as protobuf reads them, and the weights stay where they are."""

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from tests.support.caffe_files import blob_bytes, caffemodel_bytes, field, layer_bytes, varint, write_caffemodel

from fullconv.errors import UsageError
from fullconv.weights.caffe.caffemodel import MAX_VALUES, read_caffemodel

CONV = {"name": "conv1", "type": "Convolution", "bottom": "data", "top": "conv1",
        "convolution_param": {"num_output": 4, "kernel_size": 3, "pad": 100, "bias_term": True}}  # fmt: skip


def read(folder, data):
    """The net in these bytes; the file is gone afterwards, so that the next one does not change its weights."""
    path = folder / "net.caffemodel"
    path.write_bytes(data)
    try:
        return read_caffemodel(path)
    finally:
        path.unlink()


def net_of(blob):
    """A net of one layer with one blob, from the bytes of the blob."""
    return field(1, b"net") + field(100, field(1, b"conv1") + field(7, blob))


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("double", [True, False])
def test_weights_arrive_in_their_shape_and_kind(tmp_path, version, packed, legacy, double):
    kind = np.float64 if double else np.float32
    rng = np.random.default_rng(0)
    blobs = [rng.standard_normal(shape).astype(kind) for shape in ((4, 3, 3, 3), (4,), (1,), (2, 5))]
    path = tmp_path / "n.caffemodel"
    write_caffemodel(path, [{**CONV, "blobs": blobs}], version, packed, legacy, double)
    (layer,) = read_caffemodel(path).layers
    assert (layer.type, layer.params["pad"], layer.place) == ("Convolution", (100, 100), "offset 5")
    for found, blob in zip(layer.blobs, blobs, strict=True):
        assert found.dtype == kind
        assert found.shape == ((1,) * (4 - blob.ndim) + blob.shape if legacy else blob.shape)
        np.testing.assert_array_equal(found.reshape(blob.shape), blob)


def test_packed_weights_are_the_file_itself(tmp_path):
    path = tmp_path / "n.caffemodel"
    blob = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_caffemodel(path, [{**CONV, "blobs": [blob]}])
    (found,) = read_caffemodel(path).layers[0].blobs
    assert not found.flags.owndata and not found.flags.writeable
    at = path.read_bytes().index(blob.tobytes())
    with path.open("r+b") as file:  # a mapped file shows what is written into it
        file.seek(at)
        file.write(np.float32(7).tobytes())
    assert found[0, 0] == 7


def blob_message():
    """BlobProto as protobuf itself reads it."""
    proto = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="blob.proto", package="blob", syntax="proto2")
    shape = file.message_type.add(name="Shape")
    shape.field.add(name="dim", number=1, type=proto.TYPE_INT64, label=proto.LABEL_REPEATED)
    blob = file.message_type.add(name="Blob")
    single, double = proto.TYPE_FLOAT, proto.TYPE_DOUBLE
    values = (("data", 5, single), ("diff", 6, single), ("double_data", 8, double), ("double_diff", 9, double))
    for name, number, kind in values:
        blob.field.add(name=name, number=number, type=kind, label=proto.LABEL_REPEATED)
    blob.field.add(name="shape", number=7, type=proto.TYPE_MESSAGE, label=proto.LABEL_OPTIONAL, type_name=".blob.Shape")
    for number, name in enumerate(("num", "channels", "height", "width"), start=1):
        blob.field.add(name=name, number=number, type=proto.TYPE_INT32, label=proto.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("blob.Blob"))


BLOB = blob_message()


@st.composite
def pieces(draw):
    """The values of a blob in pieces, packed or one by one, gradients and unknown fields between them."""
    number, kind, wire = draw(st.sampled_from([(5, "<f4", 5), (8, "<f8", 1)]))
    out = b""
    for _ in range(draw(st.integers(0, 6))):
        values = np.arange(draw(st.integers(0, 70)), dtype=kind)
        what = draw(st.sampled_from([number, number, number + 1, 100]))
        if draw(st.booleans()):
            out += field(what, values.tobytes())
        else:
            tag = varint(what << 3 | wire)
            tag = (
                bytes([tag[0] | 128, 0]) if len(tag) == 1 and draw(st.booleans()) else tag
            )  # as long as it need not be
            out += b"".join(tag + value.tobytes() for value in values)
    return out


@given(pieces(), st.booleans())
def test_pieces_are_joined_as_protobuf_joins_them(tmp_path_factory, content, packed_dims):
    message = BLOB.FromString(content)
    theirs = np.array(message.double_data or message.data, np.float64)
    shape = field(1, varint(len(theirs)) + varint(1)) if packed_dims else field(1, len(theirs)) + field(1, 1)
    (blob,) = read(tmp_path_factory.mktemp("n"), net_of(field(7, shape) + content)).layers[0].blobs
    np.testing.assert_array_equal(blob, theirs.reshape(-1, 1))


def test_double_data_wins_and_a_legacy_shape_wins(tmp_path):
    values = np.arange(6, dtype=np.float32)
    content = field(5, values.tobytes()) + field(8, (values + 0.5).astype("<f8").tobytes())
    (blob,) = read(tmp_path, net_of(field(2, 2) + field(4, 3) + field(1, 1) + field(3, 1) + content)).layers[0].blobs
    assert blob.dtype == np.float64 and blob.shape == (1, 2, 1, 3) and blob[0, 0, 0, 0] == 0.5
    both = field(7, field(1, 6)) + field(1, 1) + field(2, 1) + field(3, 2) + field(4, 3)
    (blob,) = read(tmp_path, net_of(both + field(5, values.tobytes()))).layers[0].blobs
    assert blob.shape == (1, 1, 2, 3)


def test_a_scalar_and_nothing_are_blobs_too(tmp_path):
    assert read(tmp_path, net_of(field(5, b"\0\0\x80?"))).layers[0].blobs[0].shape == ()
    assert read(tmp_path, net_of(field(7, field(1, 0) + field(1, 5)))).layers[0].blobs[0].shape == (0, 5)


def test_what_caffe_writes_besides_is_passed_over(tmp_path):
    layer = layer_bytes({**CONV, "blobs": [np.ones((2, 2))]})
    besides = field(10, 0) + field(6, field(3, 1.0)) + field(5, 1.0) + field(999, b"fork") + field(131, b"\x0a\x01x")
    data = field(6, field(1, 0)) + field(5, 1) + field(100, besides + layer + besides) + field(77, b"?")
    net = read(tmp_path, data)
    assert net.layers == read(tmp_path, caffemodel_bytes([CONV])).layers
    assert net.layers[0].unknown == () and not net.layers[0].train_only
    np.testing.assert_array_equal(net.layers[0].blobs[0], np.ones((2, 2)))


def test_a_setting_of_a_fork_is_reported(tmp_path):
    pooling = field(121, field(2, 2) + field(14, 1) + field(99, b"x") + field(11, 1))
    layer = read(tmp_path, field(100, field(1, b"p") + field(2, b"Pooling") + pooling)).layers[0]
    assert layer.unknown == ("pooling_param.14", "pooling_param.99")


@pytest.mark.parametrize(
    "kind, name",
    [(field(5, 4), "Convolution"), (field(5, 40), "Crop"), (field(5, 45), "V1 type 45"), (field(5, 0), "V1 type 0"),
     (b"", "")],
)  # fmt: skip
def test_a_type_of_the_old_form_has_todays_name(tmp_path, kind, name):
    settings = field(10, field(1, 1) + field(4, 1))
    layer = read(tmp_path, field(2, field(4, b"x") + kind + settings)).layers[0]
    assert (layer.name, layer.type) == ("x", name)


def test_a_type_that_is_not_read_comes_with_its_name(tmp_path):
    layer = read(tmp_path, field(100, field(1, b"\xff\n") + field(2, b"Fancy") + field(3, b"a"))).layers[0]
    assert (layer.name, layer.type, layer.bottoms, dict(layer.params)) == ("\\xff\n", "Fancy", ("a",), {})


@pytest.mark.parametrize(
    "blob, words",
    [(field(5, b"123"), "3 bytes of values that take 4 bytes each"), (field(8, b"1234"), "take 8 bytes each"),
     (field(5, b"12345"), "5 bytes of values"), (field(5, 7), "field 5 of a Blob with wire type 0"),
     (field(8, 1.0), "field 8 of a Blob with wire type 5"), (field(1, b""), "Blob.num with wire type 2"),
     (field(7, 7), "Blob.shape with wire type 0"), (field(7, field(1, 1.0)), "BlobShape.dim with wire type 5"),
     (field(7, field(1, -1)), "shape (-1,)"), (field(2, -3), "shape (0, -3, 0, 0)"),
     (blob_bytes(np.zeros(3))[:-1], "wants 12 bytes and 11 are left"),
     (field(7, field(1, 4)) + field(5, bytes(12)), "shape (4,) and 3 values"),
     (field(7, field(1, 2**40) + field(1, 2**40)), f"more than {MAX_VALUES:,} values"),
     (field(7, field(1, 0) + field(1, 2**40)), f"more than {MAX_VALUES:,} values"),
     (field(7, field(1, b"\1" * 33)), "more than 32 axes"),
     (field(7, field(1, b"\xff")), "no Blob that protobuf can read"),
     (b"", "shape () and 0 values")],
)  # fmt: skip
def test_a_damaged_blob_has_an_offset(tmp_path, blob, words):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, net_of(blob))
    where, _, message = str(caught.value).partition(": offset ")
    assert where == str(tmp_path / "net.caffemodel")
    assert words in message and message.endswith("the file is damaged or no .caffemodel, take another copy")
    assert int(message.split(":")[0]) in range(5, len(net_of(blob)) + 1)


def test_settings_that_caffe_refuses_have_an_offset(tmp_path):
    wrong = {**CONV, "convolution_param": {"num_output": 4, "kernel_size": 3, "stride": 0}}
    with pytest.raises(UsageError, match="offset 5: layer 'conv1': stride is missing or 0"):
        read(tmp_path, caffemodel_bytes([wrong]))
    wrong = field(100, field(2, b"LRN") + field(118, field(4, 9)))
    with pytest.raises(UsageError, match="offset 0: layer '': norm_region is 9, and Caffe knows ACROSS_CHANNELS"):
        read(tmp_path, wrong)


def test_a_setting_of_a_wrong_type_is_not_left_at_its_default(tmp_path):
    wrong = field(1, 4) + field(4, 3) + field(2, b"no bool")
    with pytest.raises(UsageError, match="offset 0: layer '': bias_term has a value of another type"):
        read(tmp_path, field(100, field(2, b"Convolution") + field(106, wrong)))


def test_only_one_form_at_a_time(tmp_path):
    with pytest.raises(UsageError, match="offset 4: both"):
        read(tmp_path, field(2, field(4, b"")) + field(100, b""))
