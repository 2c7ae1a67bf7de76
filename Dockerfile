# llmc in a small image, without a Rust toolchain on the host:
#   docker build -t llmc .
#   docker run --rm -v "$PWD:/work" -v "$HOME/.cache/huggingface:/cache" llmc quantize --bits 4 org/name --data self
# Results lie in the folder mounted at /work, and belong to root unless `--user` says otherwise.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && strip target/release/llmc

# The binary needs glibc and libgcc alone; certificates for the hub are inside of it.
FROM debian:bookworm-slim
COPY --from=build /src/target/release/llmc /usr/local/bin/llmc
ENV HF_HOME=/cache
WORKDIR /work
ENTRYPOINT ["llmc"]
