#!/bin/sh
# Makes the passwords and keys of compose.yaml, in ./secrets; what is there already stays.
#
# The folder is for its owner alone. The files in it can be read by all, as users of containers have
# other numbers than those of this machine; Docker mounts each into the containers that name it.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

for name in database grafana admin_key; do
    [ -s "secrets/$name" ] || random >"secrets/$name"
done
[ -s secrets/settings ] || cat >secrets/settings <<SETTINGS
# smartserve's settings, a secret for the sake of the password.
[database]
url = "mysql+aiomysql://smartserve:$(cat secrets/database)@database/oaf_media"
# The service migrate does it.
upgrade_on_start = false

[server]
public_url = "http://localhost:8000"
SETTINGS
chmod 444 secrets/*
echo "secrets/: $(ls secrets | tr '\n' ' ')"
