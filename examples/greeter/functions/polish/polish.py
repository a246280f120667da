"""A warm process: one JSON line in, one JSON line out, as long as standard input is open."""

import json
import sys

print(json.dumps({"ready": True, "concurrency": 64}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    name = request["input"]["name"].strip()
    if name == "nobody":
        answer = {"error": {"class": "input", "message": "nobody is there"}}
    else:
        answer = {"result": {"greeting": f"How good to see you, {name}."}}
    print(json.dumps({"id": request["id"], **answer}), flush=True)
