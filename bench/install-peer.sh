#!/bin/sh
# PostgreSQL 15 and pgbench from Debian's packages, if they are missing; no server of it is started.
set -eu
bin=/usr/lib/postgresql/15/bin
[ -x $bin/postgres ] && [ -x $bin/pgbench ] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "the comparison needs PostgreSQL 15 in $bin; there is no apt-get here to install it" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "the comparison needs PostgreSQL 15; install it as root: sudo make bench-peer" >&2
    exit 1
fi
echo "installing postgresql-15"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends postgresql-common >/dev/null
# Debian would create a cluster of its own and start it at each boot.
sed -i 's/^#\? *create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
apt-get install -y -qq --no-install-recommends postgresql-15 >/dev/null
