#!/usr/bin/env bash
# Builds the container image where no image registry is at hand, and checks what came out.
#
# Debian's debootstrap makes both base images, the Rust toolchain of this machine and vendored crates go into the
# one that builds, and buildah builds the Dockerfile without containers (chroot isolation). Needs root, buildah,
# debootstrap and about 4 GB; without them it says so and succeeds. All of it happens in one folder below TMPDIR
# that is removed at the end, buildah's storage included.
#
#   tests/scripts/container.sh                      everything, in a temporary folder
#   KEEP=/var/tmp/trial tests/scripts/container.sh  keeps that folder, and uses base systems found in it
#   DEBIAN_MIRROR=URL                               passed to debootstrap
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() {
    echo "SKIPPED container.sh: $1" >&2
    exit 0
}
fail() {
    echo "FAILED container.sh: $1" >&2
    exit 1
}
step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

[ "$(id -u)" = 0 ] || skip "needs root, for debootstrap and buildah's chroot isolation"
for tool in buildah debootstrap cargo rustc python3; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
done

work=${KEEP:-$(mktemp -d)}
mkdir -p "$work"
work=$(cd "$work" && pwd)
clean_up() {
    if [ -z "${KEEP:-}" ]; then rm -rf "$work"; fi
}
trap clean_up EXIT

# Own storage: nothing of the host's images is seen or changed. vfs works on every file system.
b() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }

bootstrap() { # name, more debootstrap arguments
    local name=$1
    shift
    if [ ! -e "$work/$name.done" ]; then
        rm -rf "${work:?}/$name"
        debootstrap --variant=minbase "$@" bookworm "$work/$name" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} \
            >"$work/$name.log" 2>&1 || { tail -20 "$work/$name.log" >&2; fail "debootstrap of $name"; }
        rm -rf "$work/$name"/var/cache/apt/archives/*.deb "$work/$name"/var/lib/apt/lists/*
        touch "$work/$name.done"
    fi
}

step "Debian base for the runtime image"
bootstrap runtime
step "Debian base for the build image, with a C compiler and make"
bootstrap build --include=gcc,libc6-dev,make

step "base images"
base=$(b from scratch)
b add -q "$base" "$work/runtime" / >/dev/null
b commit -q "$base" localhost/outrigger-runtime-base >/dev/null
b rm "$base" >/dev/null

rm -rf "$work/cargo-home"
mkdir -p "$work/cargo-home"
cargo vendor --locked --versioned-dirs "$work/cargo-home/vendor" >/dev/null 2>"$work/vendor.log" \
    || { tail -5 "$work/vendor.log" >&2; fail "cargo vendor"; }
cat >"$work/cargo-home/config.toml" <<'CONFIG'
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "/usr/local/cargo/vendor"
CONFIG
base=$(b from scratch)
b add -q "$base" "$work/build" / >/dev/null
sysroot=$(rustc --print sysroot)
# The documentation is most of a toolchain and builds nothing.
mkdir -p "$work/rust"
tar -C "$sysroot" --exclude=./share -cf - . | tar -C "$work/rust" -xf -
b add -q "$base" "$work/rust" /usr/local/rust >/dev/null
b add -q "$base" "$work/cargo-home" /usr/local/cargo >/dev/null
b config --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --env CARGO_HOME=/usr/local/cargo "$base"
b commit -q "$base" localhost/outrigger-build-base >/dev/null
b rm "$base" >/dev/null

step "the image itself (a release build)"
b bud --format docker --isolation chroot --pull-never \
    --build-arg BUILD_IMAGE=localhost/outrigger-build-base \
    --build-arg RUNTIME_IMAGE=localhost/outrigger-runtime-base \
    --build-arg CARGO_FLAGS="--locked --offline" \
    --tag localhost/outrigger:trial . >"$work/bud.log" 2>&1 \
    || { tail -40 "$work/bud.log" >&2; fail "buildah bud"; }
tail -5 "$work/bud.log"

step "what came out"
b inspect --type image localhost/outrigger:trial >"$work/inspect.json"
python3 - "$work/inspect.json" <<'CHECK' || fail "metadata of the image"
import json, sys

config = json.load(open(sys.argv[1]))["Docker"]["config"]
wanted = {
    "User": "1337:1337",
    "Entrypoint": ["/usr/bin/outrigger"],
    "Cmd": ["run", "--config", "/etc/outrigger/outrigger.yaml"],
    "StopSignal": "SIGTERM",
    "ExposedPorts": {"15001/tcp": {}, "15006/tcp": {}, "15020/tcp": {}},
}
found = {key: config.get(key) for key in wanted}
found["Healthcheck"] = (config.get("Healthcheck") or {}).get("Test")
wanted["Healthcheck"] = ["CMD", "/usr/bin/outrigger", "status", "--fail", "-q"]
for key in wanted:
    print(f"{key}: {json.dumps(found[key])}")
wrong = [key for key in wanted if found[key] != wanted[key]]
if wrong:
    sys.exit(f"not as wanted: {wrong}")
CHECK
trial=$(b from --pull-never localhost/outrigger:trial)
size=$(b run --isolation chroot "$trial" -- /usr/bin/stat --format=%s /usr/bin/outrigger)
user=$(b run --isolation chroot "$trial" -- /usr/bin/id -u)
[ "$user" = 1337 ] || fail "the image runs as user $user"
echo "binary: $size bytes; runs as user $user"
b run --isolation chroot "$trial" -- /usr/bin/outrigger --version || fail "the binary does not run in the image"
b rm "$trial" >/dev/null
printf '\nPASSED container.sh in %ss\n' "$SECONDS"
