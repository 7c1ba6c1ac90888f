#!/bin/sh
# Calls an API with a token from bearerd, and once more with a newer one if it is refused.
# usage: get_token.sh URL [ACCOUNT]
set -eu
url=$1
shift # What is left is the account, if one was given.

call() { # TOKEN; the status of the answer
    # The token goes through a file descriptor: arguments can be seen by every user of the machine.
    printf 'header = "Authorization: Bearer %s"\n' "$1" |
        curl --silent --show-error --config - --output /dev/null --write-out '%{http_code}' "$url"
}

token=$(bearerctl token "$@")
status=$(call "$token")
if [ "$status" = 401 ]; then
    printf '%s' "$token" | bearerctl reject "$@"
    status=$(call "$(bearerctl token "$@")")
fi
echo "$status"
[ "$status" = 200 ]
