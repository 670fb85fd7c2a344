# Shunt's image: built with the official Rust image, run on Debian 12 without a compiler.
#
#   docker build -t shunt .
#   docker run --rm --cap-add NET_ADMIN --device /dev/net/tun \
#       -v ./shunt.toml:/etc/shunt/shunt.toml:ro shunt
#
# The configuration is described in docs/configuration.md, the packages in scripts/lib/packages.sh.
# The same runtime root is made and tried by scripts/test, with debootstrap where there is no engine.

FROM rust:1-slim-bookworm AS build
WORKDIR /src
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY scripts/lib/packages.sh scripts/lib/packages.sh
RUN . scripts/lib/packages.sh && packages_need "${packages_build[@]}" && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cargo build --release --locked -p shuntd -p shunt-cli

FROM debian:12-slim
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=bind,source=scripts/lib/packages.sh,target=/tmp/packages.sh \
    . /tmp/packages.sh && packages_need "${packages_runtime[@]}" && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/shuntd /src/target/release/shunt /usr/local/bin/
ENTRYPOINT ["shuntd"]
CMD ["--config", "/etc/shunt/shunt.toml"]
