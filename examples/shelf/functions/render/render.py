"""One process, one rendition: JSON on standard input, JSON on standard output."""

import json
import sys

wish = json.load(sys.stdin)
name = "-".join(wish["title"].lower().split())
print(json.dumps({"file": f"{name}.{wish['recipe']}.{wish['height']}.mp4"}))
