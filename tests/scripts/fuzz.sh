#!/usr/bin/env bash
# Runs each fuzz target for a bounded time, beginning with its seeds. Needs a nightly compiler and cargo-fuzz
# (`cargo install cargo-fuzz`), and takes minutes, so run.sh leaves it out.
#
#   tests/scripts/fuzz.sh                       # 60 s for each target
#   FUZZ_SECONDS=600 tests/scripts/fuzz.sh path configuration
#
# What is found stays in target/fuzz/artifacts, what is learned in target/fuzz/corpus; nothing else is written.
set -u
cd "$(dirname "$0")/../.." || exit 2
seconds=${FUZZ_SECONDS:-60}
out=$PWD/target/fuzz

skip() {
    echo "SKIPPED: $1" >&2
    exit 77
}
cargo +nightly --version >/dev/null 2>&1 || skip "no nightly compiler (rustup toolchain install nightly)"
cargo +nightly fuzz --version >/dev/null 2>&1 || skip "no cargo-fuzz (cargo install cargo-fuzz)"

export CARGO_TARGET_DIR=$out/build
fuzz() { cargo +nightly fuzz "$1" --fuzz-dir tests/fuzz "${@:2}"; }

mapfile -t known < <(cd tests/fuzz/fuzz_targets && printf '%s\n' *.rs | sed 's/\.rs$//')
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=("${known[@]}")

echo "building ${#targets[@]} targets (some minutes)"
mkdir -p "$out"
# All at once: the library, instrumented and in one unit, takes longer than all targets together.
if ! fuzz build >"$out/build.log" 2>&1; then
    tail -n 40 "$out/build.log" >&2
    exit 1
fi

failed=0
for target in "${targets[@]}"; do
    mkdir -p "$out/corpus/$target" "$out/artifacts/$target"
    log=$out/$target.log
    # -timeout: seconds for one input; -rss_limit_mb: an input that needs more memory is a finding.
    if fuzz run "$target" "$out/corpus/$target" "tests/fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -max_len=8192 \
        -artifact_prefix="$out/artifacts/$target/" -print_final_stats=1 >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        added=$(sed -n 's/^stat::new_units_added: *//p' "$log")
        cover=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1)
        echo "clean $target: $runs runs in $seconds s, ${cover:-cov: ?}, $added inputs learned"
    else
        failed=$((failed + 1))
        echo "FOUND $target: an input breaks its property"
        grep -E "panicked at|^SUMMARY|ERROR: libFuzzer|Test unit written" "$log" | head -n 8 | sed 's/^/    /'
        echo "    again: CARGO_TARGET_DIR=$CARGO_TARGET_DIR cargo +nightly fuzz run --fuzz-dir tests/fuzz $target FILE"
    fi
done
echo "$((${#targets[@]} - failed)) clean, $failed with findings"
[ "$failed" -eq 0 ]
