# Short names for what is done often. `just` alone lists them.

_list:
    @just --list --unsorted

# What the gate checks first; writes nothing but build products. The whole gate: .ci/run
verify:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings
    cargo test --locked
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# Rewrites what tools can rewrite
fix:
    cargo clippy --fix --all-targets --allow-dirty --allow-staged
    cargo fmt

# All tests, or those whose name contains an argument: just test pool
test *ARGS:
    cargo test --locked {{ ARGS }}

# Micro-benchmarks of the request path
bench *ARGS:
    cargo bench --locked {{ ARGS }}

# A small mesh on loopback, with one instance killed and brought back
demo *ARGS:
    cargo run --release --locked -- demo {{ ARGS }}

# CPU, latency and memory beside nginx, HAProxy and Envoy, with a report
peers *ARGS:
    python3 benches/peers/run.py {{ ARGS }}
