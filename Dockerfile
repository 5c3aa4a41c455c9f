# Builds lb from source with Debian's compilers; the image holds the binary alone.
FROM debian:trixie-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
    ca-certificates curl gcc libc6-dev rustc-web cargo-web rust-web-src llvm-22-dev libpolly-22-dev libzstd-dev \
    && rm -rf /var/lib/apt/lists/*
RUN LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked \
    --no-default-features --features llvm-22,llvm-link-static
ENV PATH=/root/.cargo/bin:$PATH
WORKDIR /lb
COPY . .
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN cargo build --release --package lb-userspace --target x86_64-unknown-linux-gnu \
    && cp target/x86_64-unknown-linux-gnu/release/lb /usr/local/bin/lb

FROM scratch
COPY --from=build /usr/local/bin/lb /lb
HEALTHCHECK --interval=10s CMD ["/lb", "healthcheck"]
ENTRYPOINT ["/lb"]
CMD ["run", "-c", "/etc/lb/lb.toml"]
