#!/bin/sh
# write.sh CELESTA TARGET.tar.gz: writes a store with runs of every kind, as that release writes it, and packs it.
#
# Once for each release: its own binary writes the store that every later one has to open (tests/tests/stores.rs).
# The server is killed with a function running, so that the file is what a crash leaves; its log is folded into it.
set -eu
celesta=$1 target=$(realpath -m "$2") here=$(realpath "$(dirname "$0")")
work=$(mktemp -d) pid=
trap 'test -z "$pid" || kill -9 "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT
unset CELESTA_SERVER CELESTA_TOKEN CELESTA_DATA || true

start() { # WORKERS: starts a server and sets `pid` and `url`
    : > "$work/out"
    "$celesta" serve --json --listen 127.0.0.1:0 --data "$work/data" --workers "$1" > "$work/out" 2>> "$work/log" &
    pid=$!
    for _ in $(seq 200); do
        url=$(sed -n 's/.*"url":"\([^"]*\)".*/\1/p' "$work/out")
        test -z "$url" || return 0
        sleep 0.05
    done
    cat "$work/log" >&2
    exit 1
}
ask() { # NAME INPUT [OPERATION]: requests a run under the label `name`
    "$celesta" --server "$url" --json call "kept/${3:-work}" --label "name=$1" --idempotency-key "key-$1" --input "$2" |
        sed -n 's/.*"\(run_[0-9a-z]*\)".*/\1/p' | head -n 1
}
state() { "$celesta" --server "$url" --json run show "$1" | grep -o '"state":"[a-z]*"' | head -n 1 | cut -d '"' -f 4; }
until_is() { # RUN STATE
    for _ in $(seq 400); do
        test "$(state "$1")" != "$2" || return 0
        sleep 0.05
    done
    echo "$1 is not $2 but $(state "$1")" >&2
    exit 1
}

start 4
"$celesta" --server "$url" push "$here/../bundles/kept" > /dev/null
run=$(ask finished '{"calls":3}'); until_is "$run" completed
run=$(ask parent '{"ask":2}'); until_is "$run" completed
run=$(ask failed '{"calls":1,"function":"refuse"}'); until_is "$run" failed
run=$(ask aside '{}' cycle); until_is "$run" quarantined
run=$(ask canceled '{"wait":"3650d"}'); "$celesta" --server "$url" run cancel "$run" > /dev/null; until_is "$run" canceled
run=$(ask paused '{"calls":1,"wait":"3650d"}')
"$celesta" --server "$url" run pause "$run" > /dev/null 2>&1 || echo "this release does not pause" >&2
ask years '{"wait":"3650d"}' > /dev/null
ask timer '{"calls":1,"wait":"3s"}' > /dev/null
sleep 1
kill -9 "$pid"; wait "$pid" 2>/dev/null || true

start 1
ask crash '{"calls":1,"function":"nap"}' > /dev/null
# The only slot is taken, so that these wait; a lease is written down when it is a second old.
ask called '{"calls":2}' > /dev/null
ask asking '{"ask":1}' > /dev/null
sleep 1.5
kill -9 "$pid"; wait "$pid" 2>/dev/null || true
pid=
python3 - "$work/data/celesta.db" <<'PYTHON'
import sqlite3, sys
store = sqlite3.connect(sys.argv[1])
store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
store.execute("PRAGMA journal_mode=DELETE")
PYTHON
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$work/data" -cf - celesta.db artifacts | gzip -9n > "$target"
ls -l "$target"
