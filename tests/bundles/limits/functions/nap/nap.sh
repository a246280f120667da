#!/bin/sh
set -eu
input=$(cat)
seconds=$(printf '%s' "$input" | sed -n 's/.*"seconds" *: *"\([0-9.]*\)".*/\1/p')
echo "napping for $seconds seconds" >&2
sleep "$seconds"
printf '{"slept":"%s"}\n' "$seconds"
