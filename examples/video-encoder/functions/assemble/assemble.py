"""Puts the pieces of one recipe together and adds the sound: one file that plays."""

import os
import sys
from fractions import Fraction

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "shared"))
from media import CODECS, Failure, duration, ffmpeg, ffprobe, serve


def assemble(request):
    codec = CODECS[request["codec"]]
    rate = Fraction(request["rate"])
    with open("pieces.txt", "w", encoding="utf-8") as pieces:
        for at, (piece, frames) in enumerate(zip(request["pieces"], request["frames"], strict=True)):
            name = f"piece-{at:05d}.{codec['extension']}"
            os.symlink(piece["path"], name)
            # The length is said, not measured: containers round it, and the roundings would add up.
            pieces.write(f"file '{name}'\nduration {float(frames / rate):.9f}\n")
    name = f"{request['name']}.{codec['extension']}"
    inputs = ["-itsoffset", f"{request['delay']:.6f}", "-f", "concat", "-safe", 0, "-i", "pieces.txt"]
    streams = ["-map", "0:v:0", "-c:v", "copy"]
    if request.get("audio"):
        inputs += ["-itsoffset", f"{request['audio_delay']:.6f}", "-i", request["audio"]["path"]]
        streams += ["-map", "1:a:0", *codec["audio"], "-ac", 2]
    if codec["extension"] == "mp4":
        streams += ["-movflags", "+faststart"]
    if request["codec"] == "hevc":
        streams += ["-tag:v", "hvc1"]
    ffmpeg(*inputs, *streams, "-map_metadata", -1, name)
    found = {stream["codec_type"]: stream for stream in ffprobe(name, "-show_streams")["streams"]}
    if "video" not in found or bool(request.get("audio")) != ("audio" in found):
        raise Failure("user", f"{name} has only the streams {', '.join(found)}")
    return {
        "file": {"$file": name, "media_type": codec["media_type"]},
        "duration": round(duration(name), 3),
        "size": os.path.getsize(name),
        "width": found["video"]["width"],
        "height": found["video"]["height"],
    }


serve(assemble)
