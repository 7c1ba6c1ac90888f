//! Examples at the end of a command's help: lines to copy, for those who read nothing else.
//!
//! Each starts with spaces, so that a manual page keeps its line too.

pub(super) const TOKEN: &str = "\
Examples:
  bearerctl token
  bearerctl token work --min-validity 5m
  bearerctl token work --format header | curl --header @- https://api.example.com/me
  bearerctl token work --format curl | curl --config - https://api.example.com/me
  eval \"export $(bearerctl token work --format env)\"
  bearerctl token work --format json | jq .expires_in
  bearerctl token work --format exec-credential
  bearerctl token work --format xoauth2 --user me@example.com
  bearerctl token work --format dpop GET $URL | curl --header @- $URL";

pub(super) const LOGIN: &str = "\
Examples:
  bearerctl login
  bearerctl login work --device
  bearerctl login work --paste";

pub(super) const REJECT: &str = "\
Examples:
  bearerctl token work | bearerctl reject work";

pub(super) const LOG: &str = "\
Examples:
  bearerctl log work --outcome AccessDenied
  bearerctl log --caller curl --follow";

pub(super) const EXEC: &str = "\
Examples:
  bearerctl exec work -- rclone copy remote:data .
  bearerctl exec work --env -- sh -c 'echo $BEARER_TOKEN_FILE'";

pub(super) const GIT_CREDENTIAL: &str = "\
Examples:
  git config --global --replace-all credential.https://git.example.com.helper ''
  git config --global --add credential.https://git.example.com.helper '!bearerctl git-credential'

The first line keeps the token from helpers that are configured already, such as git's store.
The account is the one with https://git.example.com in its api_origins.";

pub(super) const ASKPASS: &str = "\
Examples:
  GIT_ASKPASS=bearerctl-askpass git fetch
  BEARERD_ACCOUNT=work bearerctl askpass 'Password:'";

pub(super) const SET_TOKEN: &str = "\
Examples:
  bearerctl set-token work
  bearerctl set-token work < FILE
  bearerctl set-token work --remove";

pub(super) const SET_SECRET: &str = "\
Examples:
  bearerctl set-secret work
  bearerctl set-secret work < FILE
  bearerctl set-secret work --remove";

pub(super) const COMPLETIONS: &str = "\
Examples:
  eval \"$(bearerctl completions bash)\"
  bearerctl completions fish > ~/.config/fish/completions/bearerctl.fish

The names of accounts are read from the configuration; nothing is started for them.";
