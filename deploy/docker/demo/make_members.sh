#!/bin/bash
# Makes the demo's three folders below the one that it is started in: a server that is
# coordinator and teacher, and two sites. The sites' keys and the teacher's lie side by
# side here, which no federation but a demo's has.
#
#   make_members.sh HOST LISTEN_HOST
set -euo pipefail

host=$1 listen=$2
if [ -e made ]; then exit 0; fi
rm -rf server site-a site-b

moma-server init server --host "$host" --host localhost --listen-host "$listen" \
    --rounds 3 --quorum 2
server=(--config server/server.yaml)
python3 - server <<'PYTHON'
import sys
from pathlib import Path

import yaml

folder = Path(sys.argv[1])
config = yaml.safe_load((folder / "server.yaml").read_text())
config["coordinator"]["plan"] |= {"local_epochs": 2, "local_steps": 5}
config["teacher"]["budget"] = {"sites": {"site-a": 6000, "site-b": 6000}}
(folder / "server.yaml").write_text(yaml.safe_dump(config))
recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
recipe |= {
    "data": {"kind": "embedded", "part": "teacher"},
    "views": "geometry_only",
    "view_size_px": 48,
    "model": {"architecture": "tf_efficientnet_lite0", "weights": "packaged"},
    "epochs": 3,
}
recipe["training"]["batch_size"] = 32
recipe["card"].pop("licence")
(folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
PYTHON
moma-server teacher train --recipe server/recipe.yaml --out server/teacher

key=$(moma-server teacher key "${server[@]}")
for site in site-a site-b; do
    moma-client init "$site" --name "$site" --coordinator "$host:8443" \
        --teacher teacher-a --teacher-address "$host:8444" --teacher-key "$key"
    moma-server admit "${server[@]}" --site "$site" --csr "$site/site.csr" \
        --node-key "$site/node.pub" --out "$site/site.pem"
    cp server/ca.pem "$site/ca.pem"
    moma-server site approve "$site" "${server[@]}" \
        --key "$(moma-client key --site "$site/config.yaml")"
    python3 - "$site" <<'PYTHON'
import sys
from pathlib import Path

import yaml

path = Path(sys.argv[1]) / "config.yaml"
config = yaml.safe_load(path.read_text())
config |= {
    "data": {"kind": "embedded", "part": sys.argv[1]},
    "views": "geometry_only",
    "view_size_px": 48,
    "student": {"architecture": "tf_efficientnet_lite0", "weights": "packaged"},
}
config["training"]["batch_size"] = 32
path.write_text(yaml.safe_dump(config))
PYTHON
done
touch made
