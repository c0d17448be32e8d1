#!/usr/bin/env bash
# Runs all interop scripts (or those named as arguments) against a built sidecar.
#
#   cargo build --release --bins --example echo_app && tests/scripts/run.sh
#   OUTRIGGER_BIN=path ECHO_APP_BIN=path tests/scripts/run.sh curl reload
set -u
cd "$(dirname "$0")" || exit 2
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

# newest NAME: the release or the debug build, whichever is younger.
newest() {
    # shellcheck disable=SC2012  # these names hold nothing unusual
    ls -t "$target/release/$1" "$target/debug/$1" 2>/dev/null | head -n 1
}
export OUTRIGGER_BIN=${OUTRIGGER_BIN:-$(newest outrigger)}
export ECHO_APP_BIN=${ECHO_APP_BIN:-$(newest examples/echo_app)}
if [ -z "$OUTRIGGER_BIN" ] || [ -z "$ECHO_APP_BIN" ]; then
    echo "build first: cargo build --release --bins --example echo_app" >&2
    exit 2
fi
echo "sidecar: $OUTRIGGER_BIN"

all=(curl grpc_calls websocket big_bodies bad_inputs load_generators reload drain prometheus transparent identity
    rotation clock resilience network "membership --quick" "store --quick" "quorum --quick"
    "crash_loop --times 20" "store --bug stale-read" "store --bug early-ack" "crash_loop --bug early-ack --times 20"
    "quorum --bug hints-as-writes")
passed=0 failed=0 skipped=0
output=$(mktemp)
trap 'rm -f "$output"' EXIT
for name in "${@:-${all[@]}}"; do
    begun=$SECONDS
    # A trial may have arguments.
    read -ra words <<<"$name"
    timeout --kill-after=10 300 python3 "${words[0]}.py" "${words[@]:1}" >"$output" 2>&1
    code=$?
    took=$((SECONDS - begun))
    case $code in
    0)
        passed=$((passed + 1))
        echo "pass $name (${took} s, $(grep -c '^ok: ' "$output") checks)"
        sed -n 's/^NOT TRIED/    &/p' "$output"
        ;;
    77)
        skipped=$((skipped + 1))
        echo "SKIP $name: $(grep '^SKIPPED' "$output")"
        ;;
    *)
        failed=$((failed + 1))
        echo "FAIL $name (exit $code, ${took} s)"
        sed 's/^/    /' "$output"
        ;;
    esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
