//! The names of accounts, for shells: the scripts made from the arguments know nothing of them.
//!
//! **Invariant:** they come from the configuration's files, for the Tab key starts neither bus nor daemon.

use std::fmt::Write as _;

use clap::Command;
use clap_complete::Shell;

/// The accounts' tables, in a shell that all have.
const NAMES: &str = r#"sh -c 'cd "${XDG_CONFIG_HOME:-$HOME/.config}/bearerd" && sed -n -e "s/^\[accounts\.\([A-Za-z0-9_-]*\)\].*/\1/p" -e "s/^\[accounts\.\"\([A-Za-z0-9._-]*\)\"\].*/\1/p" config.toml accounts.d/*.toml' 2>/dev/null"#;

/// A shell's script, with accounts where one is wanted.
pub(super) fn with_accounts(shell: Shell, command: &Command, script: String) -> String {
    match shell {
        Shell::Bash => bash(command, &script),
        Shell::Fish => fish(command, script),
        Shell::Zsh => zsh(&script),
        _ => script,
    }
}

fn bash(command: &Command, script: &str) -> String {
    let mut text = format!("_bearerctl_accounts() {{\n    {NAMES}\n}}\n\n{script}");
    for taker in takers(command) {
        let words =
            format!("        bearerctl__subcmd__{})\n            opts=\"", taker.replace('-', "__subcmd__"));
        text = text.replacen(&words, &format!("{words}$(_bearerctl_accounts) "), 1);
    }
    text.replace(
        "--account)\n                    COMPREPLY=($(compgen -f \"${cur}\"))",
        "--account)\n                    COMPREPLY=($(compgen -W \"$(_bearerctl_accounts)\" -- \"${cur}\"))",
    )
}

fn zsh(script: &str) -> String {
    // The first line is for zsh itself.
    let (first, rest) = script.split_once('\n').unwrap_or((script, ""));
    let mut text =
        format!("{first}\n\n_bearerctl_accounts() {{\n    compadd -- ${{(f)\"$({NAMES})\"}}\n}}\n");
    for line in rest.lines() {
        let wants = line.contains(":account -- ") || line.contains(":ACCOUNT:");
        let line = if wants { line.replace(":_default'", ":_bearerctl_accounts'") } else { line.to_owned() };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn fish(command: &Command, script: String) -> String {
    let mut text = script;
    let _ = writeln!(text, "function __fish_bearerctl_accounts\n    {NAMES}\nend");
    let (condition, accounts) = ("__fish_bearerctl_using_subcommand", "(__fish_bearerctl_accounts)");
    for taker in takers(command) {
        let _ = writeln!(text, "complete -c bearerctl -n \"{condition} {taker}\" -a \"{accounts}\"");
    }
    let _ = writeln!(
        text,
        "complete -c bearerctl -n \"{condition} git-credential\" -l account -r -f -a \"{accounts}\""
    );
    text
}

/// The commands that take an account by its place.
fn takers(command: &Command) -> impl Iterator<Item = &str> {
    let takes = |command: &&Command| command.get_positionals().any(|argument| argument.get_id() == "account");
    command.get_subcommands().filter(takes).map(Command::get_name)
}
