"""Encodes one chunk by one recipe, with exactly the number of frames that is asked for."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "shared"))
from media import CODECS, Failure, ffmpeg, serve


def arguments(codec, crf):
    """One thread each: chunks are what is done in parallel."""
    if codec == "h264":
        return ["-c:v", "libx264", "-preset", "veryfast", "-crf", crf, "-threads", 1]
    if codec == "hevc":
        return [
            *["-c:v", "libx265", "-preset", "superfast", "-crf", crf, "-tag:v", "hvc1"],
            *["-x265-params", "log-level=error:pools=none:frame-threads=1"],
        ]
    return [
        *["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 7, "-b:v", 0, "-crf", crf],
        *["-threads", 1, "-row-mt", 0, "-auto-alt-ref", 0, "-lag-in-frames", 0],
    ]


def encode(request):
    recipe = request["recipe"]
    if recipe["codec"] not in CODECS:
        raise Failure("input", f"unknown codec {recipe['codec']}; known: {', '.join(CODECS)}")
    codec = CODECS[recipe["codec"]]
    height = recipe["height"] // 2 * 2
    # Frames lost at a cut are filled with the last one, so that picture and sound stay together.
    filters = [
        f"fps={request['rate']}",
        "tpad=stop_mode=clone:stop_duration=10",
        f"scale=-2:{height}:flags=bicubic",
        "format=yuv420p",
    ]
    name = f"piece.{codec['extension']}"
    ffmpeg(
        *["-i", request["source"]["path"], "-map", "0:v:0", "-an", "-vf", ",".join(filters)],
        *["-frames:v", request["frames"], "-fps_mode", "cfr", "-r", request["rate"]],
        *arguments(recipe["codec"], recipe["crf"]),
        *["-map_metadata", -1, name],
    )
    return {"file": {"$file": name, "media_type": codec["media_type"]}}


serve(encode)
