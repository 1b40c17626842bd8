"""Small videos."""

import numpy as np
import pytest

av = pytest.importorskip("av")


def video(path, frames=12, size=(48, 64), rate=10, codec="mpeg4"):
    """A video whose frame k is a grey of 20 k, brighter at the top left."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for k in range(frames):
            pixels = np.full((*size, 3), 20 * (k % 12), np.uint8)
            pixels[: size[0] // 4, : size[1] // 4] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path
