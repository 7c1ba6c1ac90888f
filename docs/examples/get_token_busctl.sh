#!/bin/bash
# Calls an API with a token from bearerd with nothing of ours installed but the daemon, and once more with a newer one
# if it is refused.
# usage: get_token_busctl.sh URL [ACCOUNT]      needs busctl, jq and curl
set -euo pipefail
url=$1
account=${2:-}

bearerd() { # METHOD SIGNATURE ARGUMENT…; the answer's values as JSON
    busctl --user --json=short call org.bearerd.Broker1 /org/bearerd/Broker1 org.bearerd.Broker1 "$@"
}

call() { # TOKEN; the status of the answer
    printf 'header = "Authorization: Bearer %s"\n' "$1" |
        curl --silent --show-error --config - --output /dev/null --write-out '%{http_code}' "$url"
}

answer=$(bearerd GetToken s "$account")
status=$(call "$(jq -r '.data[0]' <<<"$answer")")
if [ "$status" = 401 ]; then
    # The id and not the token: arguments can be seen by every user of the machine.
    bearerd RejectToken ss "$account" "$(jq -r '.data[2].token_id.data' <<<"$answer")" >/dev/null
    answer=$(bearerd GetToken s "$account")
    status=$(call "$(jq -r '.data[0]' <<<"$answer")")
fi
echo "$status"
[ "$status" = 200 ]
