# Two images of one code base: `plugin` becomes the root filesystem of the managed plugin, `ingress` the sidecar.
#
# Works with Docker's legacy builder and with BuildKit. Python packages come from build/wheels, filled beforehand by
# `make plugin`, so that a build needs the network for Debian packages only.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS packages
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY build/wheels/locked /wheels
# Compiled beforehand: Docker waits half a second for the plugin's socket before it looks again three seconds later.
# What is locked comes first, since it seldom changes, and our own code after it.
RUN python3 -m venv /opt/stackpad \
 && /opt/stackpad/bin/pip install --no-index --no-deps --no-cache-dir /wheels/*.whl \
 && /opt/stackpad/bin/python -m compileall -q /opt/stackpad
COPY build/wheels/own /own
RUN /opt/stackpad/bin/pip install --no-index --no-cache-dir /own/*.whl \
 && /opt/stackpad/bin/pip uninstall --yes pip \
 && /opt/stackpad/bin/python -m compileall -q /opt/stackpad

FROM ${BASE} AS ingress
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old
COPY --from=packages /opt/stackpad /opt/stackpad
ENTRYPOINT ["/opt/stackpad/bin/python", "-m", "ingress"]

FROM ${BASE} AS plugin
RUN apt-get update \
 && apt-get install --yes --no-install-recommends etcd-server iptables nftables python3 wireguard-go \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old
COPY --from=packages /opt/stackpad /opt/stackpad
# What a managed plugin's mounts need in a root filesystem that is its image's and nobody else's.
RUN mkdir -p /run/docker/plugins /host/run /host/proc /host/var/lib
ENTRYPOINT ["/opt/stackpad/bin/python", "-m", "plugin"]
