#!/bin/sh
# Input: {"name":"Ada"}. What goes to standard error can be read with `celesta run logs`.
set -eu
input=$(cat)
name=$(printf '%s' "$input" | sed -n 's/.*"name" *: *"\([^"]*\)".*/\1/p')
if [ -z "$name" ]; then
    echo '{"error":{"class":"input","message":"a guest needs a name"}}'
    exit 1
fi
echo "greeting $name" >&2
printf '{"greeting":"Hello, %s!"}\n' "$name"
