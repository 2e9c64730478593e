"""A clip's frames as shards keep them: a JPEG each, or one short video, H.264 in MP4 with a key frame every few frames
(pack.rgb_codec)."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from fractions import Fraction

import av
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from mmkd.media.images import jpeg_pixels
from mmkd.media.video import MAX_PIXELS, decoder_options

MAX_VIEW_PIXELS = 1 << 29
"""Of all frames that are decoded of a clip at once: 64 of 4K video."""


class VideoWriter:
    """Encodes frames one by one.

    The same frames give the same bytes: one thread, no B-frames, nothing of the time of day. Frames of odd width or
    height lose their last column or row, which H.264 cannot keep.

    Args:
        size: width and height, pixels.
        crf: x264's quality, 0 (lossless) to 51.
        gop: frames from one key frame to the next: what a reader decodes in vain, at the most.
    """

    def __init__(self, size: tuple[int, int], fps: float, crf: int, gop: int):
        self.buffer = io.BytesIO()
        self.container = av.open(self.buffer, "w", format="mp4")
        rate = Fraction(fps).limit_denominator(1001)
        options = {"crf": str(crf), "preset": "fast", "bf": "0", "sc_threshold": "0", "threads": "1"}
        self.stream = self.container.add_stream("libx264", rate=rate, options=options)
        self.stream.width, self.stream.height = (side - side % 2 for side in size)
        self.stream.pix_fmt, self.stream.gop_size = "yuv420p", gop

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Append a frame, uint8 [height, width, 3]."""
        even = np.ascontiguousarray(pixels[: self.stream.height, : self.stream.width])
        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(even, "rgb24")))

    @property
    def written(self) -> int:
        """Bytes of the file so far."""
        return self.buffer.getbuffer().nbytes

    def close(self) -> bytes:
        """The finished MP4 file."""
        self.container.mux(self.stream.encode(None))
        self.container.close()
        return self.buffer.getvalue()


def decode_jpegs(images: Sequence[bytes], wanted: Collection[int]) -> dict[int, NDArray[np.uint8]]:
    """Some of the images, by number.

    Raises:
        ValueError: one is missing, cannot be decoded, or they claim an absurd size.
    """
    try:
        if (pixels := sum(jpeg_pixels(images[number]) for number in wanted)) > MAX_VIEW_PIXELS:
            raise ValueError(f"{len(wanted)} frames claim {pixels} pixels")
        return {number: simplejpeg.decode_jpeg(images[number], "RGB") for number in wanted}
    except (IndexError, TypeError) as error:  # the latter: null in place of an image
        raise ValueError(f"a frame is missing: {error}") from error


def decode_frames(video: bytes, wanted: Collection[int]) -> dict[int, NDArray[np.uint8]]:
    """Some frames of a video that :class:`VideoWriter` made, by number; only the stretches from a key frame to a wanted
    frame are decoded.

    Raises:
        ValueError: it cannot be decoded, claims an absurd size, or has no such frame.
    """
    found: dict[int, NDArray[np.uint8]] = {}
    try:
        # No other format than it is written in: some are lists of files to open.
        with av.open(io.BytesIO(video), "r", format="mp4", options=decoder_options("mp4")) as container:
            stream = container.streams.video[0]
            pixels = stream.width * stream.height
            if pixels > MAX_PIXELS or pixels * len(set(wanted)) > MAX_VIEW_PIXELS:
                raise ValueError(f"it claims {len(set(wanted))} frames of {stream.width} x {stream.height}")
            stream.codec_context.thread_count = 1
            stream.codec_context.options = decoder_options()
            # There are no B-frames, so packet n is frame n.
            packets = [packet for packet in container.demux(stream) if packet.size]
            start = 0
            for number in sorted(number for number in set(wanted) if number < len(packets)):
                key = max(n for n in range(number + 1) if packets[n].is_keyframe)
                for n in range(max(start, key), number + 1):
                    for frame in stream.codec_context.decode(packets[n]):
                        if frame.width * frame.height > pixels:
                            raise ValueError(f"frame {n} is {frame.width} x {frame.height}, larger than it claims")
                        if n == number:
                            found[n] = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                start = number + 1
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise ValueError(f"the video of the clip cannot be decoded: {error}") from error
    if missing := set(wanted) - set(found):
        raise ValueError(f"the video of the clip has no frame {min(missing)}")
    return found
