#!/bin/sh
# JSON on standard input, JSON on standard output. A shell has no JSON of its own: good enough for flat texts.
input=$(cat)
field() { printf '%s' "$input" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
name=$(field name)
case "$(field language)" in
    de) word="Hallo" ;;
    fr) word="Bonjour" ;;
    *) word="Hello" ;;
esac
echo "greeting $name" >&2
case "$name" in
    nobody)
        echo '{"error":{"class":"input","message":"nobody is there"}}'
        exit 1
        ;;
esac
printf '{"greeting":"%s, %s!"}\n' "$word" "$name"
