#!/bin/bash
# A PostgreSQL for the tests. `tests/postgres.sh url` prints the address of one: what CELESTA_TEST_POSTGRES says, else the
# one at 127.0.0.1:5432 if it lets us in, else one that is started here with its data in a temporary folder; `stop` ends that.
set -euo pipefail

verb=${1:?url or stop}
port=54329
folder=/tmp/celesta-test-postgres-$(id -u)-$port

programs() {
    local place
    for place in $(command -v initdb >/dev/null && dirname "$(command -v initdb)") /usr/lib/postgresql/*/bin; do
        [ -x "$place/initdb" ] && { echo "$place"; return; }
    done
    return 1
}

# PostgreSQL refuses to run as root.
as_account() {
    if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --init-groups "$@"; else "$@"; fi
}

lets_us_in() { psql --no-psqlrc --no-password --host 127.0.0.1 --port "$1" --username postgres --command 'SELECT 1' >/dev/null 2>&1; }

case $verb in
url)
    if [ -n "${CELESTA_TEST_POSTGRES:-}" ]; then echo "$CELESTA_TEST_POSTGRES"; exit; fi
    if lets_us_in 5432; then echo 'postgres://postgres@127.0.0.1:5432'; exit; fi
    if lets_us_in "$port"; then echo "postgres://postgres@127.0.0.1:$port"; exit; fi
    bin=$(programs) || { echo 'initdb is missing: please install postgresql' >&2; exit 1; }
    rm -rf "$folder"
    mkdir -m 700 "$folder"
    if [ "$(id -u)" = 0 ]; then chown postgres: "$folder"; fi
    echo "starting a PostgreSQL for the tests on port $port" >&2
    cd "$folder"
    as_account "$bin/initdb" -A trust -U postgres -D "$folder/data" >/dev/null
    as_account "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/log" \
        -o "-p $port -k $folder -c listen_addresses=127.0.0.1 -c max_connections=300" start >/dev/null
    echo "postgres://postgres@127.0.0.1:$port"
    ;;
stop)
    [ -d "$folder/data" ] || exit 0
    cd "$folder"
    as_account "$(programs)/pg_ctl" -D "$folder/data" -m fast -w stop >/dev/null || true
    rm -rf "$folder"
    ;;
*)
    echo 'url or stop' >&2
    exit 2
    ;;
esac
