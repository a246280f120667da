"""What the functions of this service share: running ffmpeg, reading ffprobe, saying what went wrong.

A function reads one JSON value from standard input and writes one to standard output. Everything it writes to standard
error can be read later with `celesta run logs`. No module beyond Python's own library is used.
"""

import json
import os
import subprocess
import sys
from fractions import Fraction

# How each codec is encoded and in which container it is delivered.
CODECS = {
    "h264": {"extension": "mp4", "media_type": "video/mp4", "audio": ["-c:a", "aac", "-b:a", "128k"]},
    "hevc": {"extension": "mp4", "media_type": "video/mp4", "audio": ["-c:a", "aac", "-b:a", "128k"]},
    "vp9": {"extension": "webm", "media_type": "video/webm", "audio": ["-c:a", "libopus", "-b:a", "96k"]},
}


class Failure(Exception):
    """Ends the function with an error of a class: input, transient, resource or user."""

    def __init__(self, error_class, message):
        super().__init__(message)
        self.error_class = error_class


def serve(function):
    """Runs `function` once: JSON in, JSON out, errors classified."""
    try:
        result = function(json.load(sys.stdin))
    except Failure as failure:
        error = {"class": failure.error_class, "message": str(failure)}
        print(json.dumps({"error": error}))
        sys.exit(1)
    print(json.dumps(result))


def ffmpeg(*arguments, error_class="user"):
    """Runs ffmpeg, quiet but for errors, and returns what it wrote to standard error."""
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-y", "-loglevel", "error", *map(str, arguments)]
    print("+", " ".join(command), file=sys.stderr, flush=True)
    return run(command, error_class).stderr


def ffprobe(path, *arguments, error_class="user"):
    """What ffprobe says about a file, as a dictionary."""
    command = ["ffprobe", "-loglevel", "error", "-of", "json", *arguments, str(path)]
    return json.loads(run(command, error_class).stdout or "{}")


def run(command, error_class):
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        raise Failure("input", f"{command[0]} is not installed on this worker") from None
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()][-3:]
        for path in (argument for argument in command if argument.startswith("/")):
            # Where a worker keeps its files is nobody's business.
            said = [line.replace(path, os.path.basename(path)) for line in said]
        if any("No space left on device" in line for line in said):
            error_class = "resource"
        raise Failure(error_class, f"{command[0]} failed: " + " / ".join(said))
    return done


def duration(path):
    """How long a file plays, in seconds."""
    found = ffprobe(path, "-show_entries", "format=duration")
    return float(found.get("format", {}).get("duration", 0))


def rate(text):
    """A frame rate such as `30000/1001`, or none."""
    top, _, bottom = (text or "0/1").partition("/")
    if not int(top) or not int(bottom or 1):
        return None
    return Fraction(int(top), int(bottom or 1))
