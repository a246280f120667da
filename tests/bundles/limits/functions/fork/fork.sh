#!/bin/sh
# A child, a grandchild that ignores SIGTERM, and one in a session of its own.
input=$(cat)
marker=$(printf '%s' "$input" | sed -n 's/.*"marker" *: *"\([0-9]*\)".*/\1/p')
sleep "$marker" &
sh -c "trap '' TERM; sleep $marker; sleep $marker" &
setsid sh -c "trap '' TERM HUP; sleep $marker & sleep $marker" &
trap '' TERM
while true; do sleep "$marker"; done
