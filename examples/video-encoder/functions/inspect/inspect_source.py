"""Looks at a source: how long it plays, how large its picture is, whether it has sound."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "shared"))
from media import Failure, ffprobe, rate, serve

# Frame rates beyond this are an artifact of the container, not of a camera.
RATE_MAX = 120


def inspect(request):
    source = request["source"]["path"]
    found = ffprobe(source, "-show_format", "-show_streams", error_class="input")
    streams = found.get("streams", [])
    pictures = [
        stream
        for stream in streams
        if stream.get("codec_type") == "video" and not stream.get("disposition", {}).get("attached_pic")
    ]
    if not pictures:
        raise Failure("input", "the source has no video stream")
    video = pictures[0]
    length = float(found.get("format", {}).get("duration") or video.get("duration") or 0)
    if length <= 0:
        raise Failure("input", "the source has no duration")
    rates = [rate(video.get("avg_frame_rate")), rate(video.get("r_frame_rate"))]
    rates = [one for one in rates if one and one <= RATE_MAX]
    sounds = [stream for stream in streams if stream.get("codec_type") == "audio"]
    begin = float(found["format"].get("start_time") or 0)

    def delay(stream):
        return max(0.0, float(stream.get("start_time") or begin) - begin)

    return {
        "duration": length,
        "width": int(video["width"]),
        "height": int(video["height"]),
        "rate": str(rates[0]) if rates else "25",
        "stream": int(video["index"]),
        "delay": delay(video),
        "audio": bool(sounds),
        "audio_delay": delay(sounds[0]) if sounds else 0.0,
    }


serve(inspect)
