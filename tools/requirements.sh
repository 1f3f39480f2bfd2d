#!/bin/bash
# Installs the Debian packages this checkout needs and this machine lacks; silent where nothing is missing.
# With the word "python", only what a virtual environment takes; with "bench", what `make bench` alone needs.
set -euo pipefail

declare -A wanted=([python3]=python3 [curl]=curl)
if [ "${1:-}" = bench ]; then
  wanted=([h2load]=nghttp2-client)
elif [ "${1:-}" != python ]; then
  wanted+=(
    [dockerd]=docker.io [docker]=docker.io [caddy]=caddy [debootstrap]=debootstrap [nft]=nftables
    [iptables]=iptables [conntrack]=conntrack [ip]=iproute2 [nsenter]=util-linux [docker-compose]=docker-compose
    [docker-registry]=docker-registry [ping]=iputils-ping [etcd]=etcd-server [etcdctl]=etcd-client
    [wg]=wireguard-tools [wireguard-go]=wireguard-go [dnsmasq]=dnsmasq-base [dig]=bind9-dnsutils [tcpdump]=tcpdump
    [openssl]=openssl [pebble]=pebble [chromium]=chromium [gtlsclient]=ngtcp2-client
    [qemu-system-x86_64]=qemu-system-x86 [busybox]=busybox-static [cpio]=cpio [modprobe]=kmod
    [faketime]=faketime
  )
fi

missing=()
for program in "${!wanted[@]}"; do
  command -v "$program" > /dev/null 2>&1 || [ -x "/usr/sbin/$program" ] || missing+=("${wanted[$program]}")
done
python3 -c 'import ensurepip' 2> /dev/null || missing+=(python3-venv)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
  echo "these packages are missing, and only root can install them: ${missing[*]}" >&2
  exit 1
fi

# A testbed has engines and proxies of its own: the machine's are not to be started because we wanted their files.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
echo "installing ${missing[*]}" >&2
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends -qq "${missing[@]}" > /dev/null
