# Builds the image of the sidecar. Both base images are arguments, so that a closed network can bring its own:
#   docker build -t outrigger .
#   buildah bud --format docker --isolation chroot --build-arg BUILD_IMAGE=... --build-arg RUNTIME_IMAGE=... .
# The build image needs cargo, a C compiler and make (installed below if missing); the runtime image needs glibc
# and libgcc_s. tests/scripts/container.sh tries all of it without a registry.
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
# For a build without network: CARGO_FLAGS="--locked --offline", with vendored sources in the build image.
ARG CARGO_FLAGS=--locked
# jemalloc is built by make, which slim images lack.
RUN command -v make >/dev/null \
    || (apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*)
WORKDIR /build
COPY . .
RUN cargo build --release ${CARGO_FLAGS} --bin outrigger --target-dir /build/target \
    && install -D -m 0755 /build/target/release/outrigger /out/outrigger

FROM ${RUNTIME_IMAGE}
COPY --from=build /out/outrigger /usr/bin/outrigger
# A number, not a name: Kubernetes' runAsNonRoot can verify only numbers, and interception rules exclude this
# user's own traffic.
USER 1337:1337
# Outbound, inbound, metrics with the probes. The admin API stays on loopback.
EXPOSE 15001 15006 15020
STOPSIGNAL SIGTERM
# Exec form throughout: there is no shell in the runtime image, and signals must reach the process itself.
HEALTHCHECK --interval=5s --timeout=2s --start-period=5s --retries=3 \
    CMD ["/usr/bin/outrigger", "status", "--fail", "-q"]
ENTRYPOINT ["/usr/bin/outrigger"]
CMD ["run", "--config", "/etc/outrigger/outrigger.yaml"]
