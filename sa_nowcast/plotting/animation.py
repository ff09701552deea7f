"""Pictures to an animation: GIF or MP4, written whole or not at all."""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import MissingLibraryError, RecipeError, StorageError
from sa_nowcast.storage.whole import partial_beside, storage

Picture = npt.NDArray[np.uint8]  # (height, width, 3), red, green, blue

FORMATS = (".gif", ".mp4")
COLOURS = 255  # of a GIF; one more stands for what does not change
# H.264 as all browsers play it; beside it what some builds of ffmpeg have instead.
ENCODERS = ("libx264", "libopenh264", "mpeg4")
# Nearly what the GIF shows: flat colours stay flat, and thin lines sharp.
_QUALITY = {"libx264": {"crf": "16"}, "libopenh264": {"b": "8M"}, "mpeg4": {"q": "2", "b": "8M"}}
BT709 = 1  # ITU-T H.273, tables 2 to 4: the value for BT.709 of matrix, primaries and transfer


def write_animation(pictures: Sequence[Picture], path: Path, frames_per_second: float) -> None:
    """Write `pictures`, all of one size, to `path`, which ends with one of `FORMATS`; as `plotting.animate` raises."""
    content = _gif(pictures, frames_per_second) if path.suffix.lower() == ".gif" else _mp4(pictures, frames_per_second)
    with storage(path), partial_beside(path) as partial:
        partial.write_bytes(content)
        partial.replace(path)


def _gif(pictures: Sequence[Picture], frames_per_second: float) -> bytes:
    from PIL import Image  # comes with matplotlib

    if frames_per_second > 50:
        raise RecipeError("animate", f"frames_per_second is {frames_per_second:g}", "at most 50 for a GIF")
    colours, *indices = _one_palette(pictures)
    first, *others = (Image.fromarray(index) for index in indices)
    for image in (first, *others):
        image.putpalette(colours.tobytes())
    stream = io.BytesIO()
    duration = round(1000 / frames_per_second)
    first.save(stream, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)
    return stream.getvalue()


def _one_palette(pictures: Sequence[Picture]) -> list[npt.NDArray[np.uint8]]:
    """Return the most frequent colours of all pictures, and each picture as positions among them.

    Of one palette only what changes is written, and flat colours stay as they are; the rest (edges of letters) takes
    the nearest colour.
    """
    codes = [(p.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(-1, dtype=np.uint32) for p in pictures]
    each = [np.unique(code, return_counts=True) for code in codes]
    known, inverse = np.unique(np.concatenate([found for found, _ in each]), return_inverse=True)
    counts = np.bincount(inverse, np.concatenate([count for _, count in each]))
    rgb = np.stack([known >> 16, known >> 8 & 255, known & 255], -1).astype(np.float32)
    palette = rgb[np.argsort(-counts, kind="stable")[:COLOURS]]
    nearest = np.argmin(np.square(palette).sum(-1) - 2 * rgb @ palette.T, axis=1).astype(np.uint8)
    return [palette.astype(np.uint8), *(nearest[np.searchsorted(known, code)] for code in codes)]


def _mp4(pictures: Sequence[Picture], frames_per_second: float) -> bytes:
    from matplotlib.animation import FFMpegWriter

    rate = Fraction(frames_per_second).limit_denominator(1000)
    if not rate:
        raise RecipeError("animate", f"frames_per_second is {frames_per_second:g}", "at least 0.001 for an MP4")
    even = [_even(picture) for picture in pictures]
    if FFMpegWriter.isAvailable():
        return _by_ffmpeg(even, rate, FFMpegWriter.bin_path())
    try:
        import av  # noqa: F401
    except ImportError:
        raise MissingLibraryError(
            "animate",
            "an MP4 needs ffmpeg or PyAV, and neither is installed",
            "one of them, or a file that ends in .gif",
            install("film"),
        ) from None
    return _by_av(even, rate)


def _even(picture: Picture) -> Picture:
    """Return the picture with a white edge where a side is odd: H.264 shares colours between 2 by 2 pixels."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255)


def _by_av(pictures: Sequence[Picture], rate: Fraction) -> bytes:
    import av

    name = next((name for name in ENCODERS if name in av.codecs_available and _encodes(name)), None)
    if name is None:
        raise StorageError("animate", "PyAV has no encoder for MP4", f"one of {', '.join(ENCODERS)}", "write a .gif")
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video: Any = container.add_stream(name, rate=rate, options=_QUALITY[name])
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = "yuv420p"
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(video.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(video.encode())
    return stream.getvalue()


def _encodes(name: str) -> bool:
    import av

    try:
        av.codec.Codec(name, "w")
    except ValueError:  # known to ffmpeg, not built in
        return False
    return True


def _by_ffmpeg(pictures: Sequence[Picture], rate: Fraction, program: str) -> bytes:
    height, width = pictures[0].shape[:2]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    colours = ["-vf", "scale=out_color_matrix=bt709,format=yuv420p"]
    for key in ("-colorspace", "-color_primaries", "-color_trc"):
        colours += [key, "bt709"]
    found = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False).stdout
    names = {line.split()[1] for line in found.splitlines() if len(line.split()) > 1}
    name = next((name for name in ENCODERS if name in names), None)
    if name is None:
        raise StorageError("animate", f"{program} has no encoder for MP4", f"one of {', '.join(ENCODERS)}")
    quality = [text for key, value in _QUALITY[name].items() for text in (f"-{key}:v", value)]
    with tempfile.TemporaryDirectory(prefix="sa_nowcast.") as folder:
        target = Path(folder) / "animation.mp4"  # MP4 is written with a step back at the end, so not to a pipe
        command = [program, "-v", "error", *source, *colours, "-c:v", name, *quality, "-an", str(target)]
        done = subprocess.run(command, input=b"".join(p.tobytes() for p in pictures), capture_output=True, check=False)
        if done.returncode:
            said = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise StorageError("animate", f"ffmpeg failed: {said:.200}")
        return target.read_bytes()
