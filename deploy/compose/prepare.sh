#!/bin/sh
# Creates the passwords and keys of compose.yaml and production.yaml in ./secrets. Existing files are kept.
#
# Only the owner can open the folder. Its files are readable by all, because users in containers have
# other ids; Docker mounts each file only into the containers that name it.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

for name in database grafana admin_key s3_key; do
    [ -s "secrets/$name" ] || random >"secrets/$name"
done
[ -s secrets/settings ] || cat >secrets/settings <<SETTINGS
# smartserve's settings; a secret, because they contain the password.
[database]
url = "mysql+aiomysql://smartserve:$(cat secrets/database)@database/oaf_media"
# The service "migrate" upgrades the schema.
upgrade_on_start = false

[server]
public_url = "http://localhost:8000"
# The network of nginx, as in compose.yaml: nginx reports the clients' addresses.
trusted_proxies = ["172.31.77.0/24"]

[main]
# Only while public_url is this machine: profiles get addresses below it.
allow_loopback_url = true
SETTINGS
[ -s secrets/s3_identities ] || cat >secrets/s3_identities <<IDENTITIES
{"identities": [{"name": "smartserve", "actions": ["Read", "Write", "List"],
  "credentials": [{"accessKey": "smartserve", "secretKey": "$(cat secrets/s3_key)"}]}]}
IDENTITIES
chmod 444 secrets/*
echo "secrets/: $(ls secrets | tr '\n' ' ')"
