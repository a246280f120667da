"""How close a result comes to its source: SSIM of the luma, 1.0 for equal pictures, five frames a second."""

import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "shared"))
from media import Failure, ffmpeg, serve

FRAMES_PER_SECOND = 5


def quality(request):
    # Both pictures in the same size and at the same instants; whatever else differs is loss.
    same = f"setpts=PTS-STARTPTS,fps={FRAMES_PER_SECOND}:start_time=0"
    graph = (
        f"[0:v:0]{same},format=yuv420p[result];"
        f"[1:{request['stream']}]{same},scale={request['width']}:{request['height']}:flags=bicubic,format=yuv420p[source];"
        "[result][source]ssim=shortest=1"
    )
    said = ffmpeg(
        *["-threads", 1, "-i", request["file"]["path"], "-threads", 1, "-i", request["source"]["path"]],
        *["-filter_complex", graph, "-loglevel", "info", "-nostats", "-f", "null", "-"],
    )
    found = re.search(r"SSIM Y:([0-9.]+)", said)
    if not found:
        raise Failure("user", "ffmpeg did not report the SSIM")
    return {"ssim": round(float(found.group(1)), 4)}


serve(quality)
