"""Cuts the picture of a source at key frames, without encoding anything, and sets its sound aside.

Each chunk says how many frames its encodings must have. The numbers are differences of rounded instants, so that they
add up to the length of the whole however often it is cut.
"""

import os
import sys
from fractions import Fraction

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "shared"))
from media import Failure, ffmpeg, ffprobe, serve

# A result is at most 32 KiB of JSON, and a reference to a chunk about 150 bytes.
CHUNKS_MAX = 120


def split(request):
    source, stream = request["source"]["path"], request["stream"]
    found = ffprobe(source, "-select_streams", str(stream), "-show_entries", "packet=pts_time,duration_time,flags")
    packets = [packet for packet in found.get("packets", []) if "pts_time" in packet]
    if not packets:
        raise Failure("input", "the source has no frames")
    begin = min(float(packet["pts_time"]) for packet in packets)
    end = max(float(packet["pts_time"]) + float(packet.get("duration_time") or 0) for packet in packets)
    keys = sorted(float(packet["pts_time"]) for packet in packets if packet["flags"].startswith("K"))
    seconds = max(float(request["seconds"]), (end - begin) / CHUNKS_MAX)
    cuts, last = [], begin
    for key in keys:
        if key - last >= seconds - 0.001 and key > begin:
            cuts.append(key)
            last = key
    # A cut is named a little early, since the muxer compares rounded instants; no key frame lies in between.
    times = ",".join(f"{cut - begin - 0.002:.6f}" for cut in cuts)
    where = ["-segment_times", times] if cuts else ["-segment_time", "1000000000"]
    ffmpeg(
        *["-i", source, "-map", f"0:{stream}", "-c", "copy", "-an", "-sn", "-dn"],
        *["-f", "segment", "-segment_format", "matroska", *where, "chunk-%05d.mkv"],
        error_class="input",
    )
    bounds = [begin, *cuts, end]
    rate = Fraction(request["rate"])
    chunks = []
    for index, (first, after) in enumerate(zip(bounds, bounds[1:])):
        name = f"chunk-{index:05d}.mkv"
        if not os.path.exists(name):
            raise Failure("user", f"{name} is missing: the source was not cut where it has key frames")
        frames = round((after - begin) * rate) - round((first - begin) * rate)
        chunks.append({"index": index, "frames": max(1, frames), "file": {"$file": name, "media_type": "video/x-matroska"}})
    if os.path.exists(f"chunk-{len(chunks):05d}.mkv"):
        raise Failure("user", "the source was cut more often than it should")
    result = {"chunks": chunks}
    if request["audio"]:
        ffmpeg("-i", source, "-map", "0:a:0", "-c", "copy", "-vn", "-f", "matroska", "audio.mka", error_class="input")
        result["audio"] = {"$file": "audio.mka", "media_type": "audio/x-matroska"}
    return result


serve(split)
