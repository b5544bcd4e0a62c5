#!/bin/sh
# Lets a fuzzer look for answers of the admin API that its description does not have: any 5xx, any status, media
# type or shape that /openapi.json does not name. Takes some minutes. Needs python3 with pip, and fetches
# schemathesis into a directory that it removes.
#
#     .ci/openapi.sh [EXAMPLES]        how many requests it tries for each operation (default: 40)
set -eu
examples=${1:-40}
cd "$(dirname "$0")/.."
cargo build --quiet
scratch=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT
server=
fuzzer=${SCHEMATHESIS:-}
if [ -z "$fuzzer" ]; then
    python3 -m venv "$scratch/venv"
    "$scratch/venv/bin/pip" install --quiet 'schemathesis==4.*'
    fuzzer=$scratch/venv/bin/schemathesis
fi
# Without limits of rate, and without Envoys that anything would be waited for.
"${CARGO_TARGET_DIR:-target}/debug/understudy" serve --xds 127.0.0.1:0 --admin 127.0.0.1:0 --data "$scratch/data" \
    --rate-limit 100000 --log error >"$scratch/addresses" 2>"$scratch/log" &
server=$!
for _ in $(seq 100); do
    grep -q '^ready' "$scratch/addresses" && break
    sleep 0.1
done
admin=$(sed -n 's/^admin //p' "$scratch/addresses")
for kind in upstreams services; do
    curl -fsS -X PUT -H 'content-type: application/json' \
        -d "$([ $kind = upstreams ] && echo '{"targets":[{"target":"10.0.0.1:80"}]}' || echo '{"upstream":"shop"}')" \
        "http://$admin/$kind/shop" >/dev/null
done
# /events never ends, and /backup is a database.
"$fuzzer" run "http://$admin/openapi.json" --exclude-path /events --exclude-path /backup \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method \
    --max-examples "$examples" --request-timeout 30 --workers 1 --seed 7 || {
    status=$?
    cat "$scratch/log" >&2
    exit "$status"
}
kill -0 "$server"
