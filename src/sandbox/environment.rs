//! A session of its own: bus, provider, configuration, and the programs on the path.

use std::path::PathBuf;
use std::process::{ExitCode, Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use super::consent;
use super::provider::{Provider, Settings};

/// The longest wait for anything that must happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(40);
pub(super) const ACCOUNT: &str = "sandbox";

pub(super) struct Environment {
    pub(super) provider: Provider,
    address: String,
    folder: tempfile::TempDir,
    /// Ends with us, and the daemon with it.
    _bus: Child,
    secret: String,
}

impl Environment {
    /// Starts everything but the daemon, which the first call starts.
    pub(super) async fn start(settings: Settings) -> Result<Self, String> {
        let said = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| format!("{what}: {error}")
        };
        let folder = tempfile::tempdir().map_err(said("no temporary folder"))?;
        let own = std::env::current_exe().map_err(said("cannot find this program"))?;
        for name in ["bin", "services", "config/bearerd", "run"] {
            std::fs::create_dir_all(folder.path().join(name)).map_err(said("no temporary folder"))?;
        }
        for program in ["bearerd", "bearerctl", "bearerctl-askpass"] {
            let link = folder.path().join("bin").join(program);
            std::os::unix::fs::symlink(&own, link).map_err(said("cannot link the programs"))?;
        }
        let root = folder.path().display();
        let write = |name: &str, text: String| {
            std::fs::write(folder.path().join(name), text).map_err(said("cannot write the sandbox's files"))
        };
        write(
            "services/org.bearerd.Broker1.service",
            format!("[D-BUS Service]\nName=org.bearerd.Broker1\nExec={root}/bin/bearerd\n"),
        )?;
        write(
            "bus.conf",
            format!(
                "<busconfig><type>session</type><listen>unix:path={root}/run/bus</listen>\
                 <servicedir>{root}/services</servicedir><policy context=\"default\">\
                 <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/>\
                 </policy><limit name=\"max_replies_per_connection\">50000</limit></busconfig>"
            ),
        )?;
        let secret = settings.client_secret.clone().unwrap_or_default();
        let provider = Provider::start(settings).await.map_err(said("the provider cannot start"))?;
        write(
            "config/bearerd/config.toml",
            format!(
                "[accounts.{ACCOUNT}]\nissuer = {:?}\nclient_id = \"sandbox\"\n\
                 scopes = [\"openid\", \"profile\", \"locks\"]\nstore = \"memory\"\n",
                provider.issuer()
            ),
        )?;
        let address = format!("unix:path={root}/run/bus");
        let log = std::fs::File::create(folder.path().join("log")).map_err(said("no log"))?;
        let mut bus = Command::new("dbus-daemon");
        bus.arg(format!("--config-file={root}/bus.conf")).args([
            "--nofork",
            "--nopidfile",
            "--print-address",
        ]);
        bus.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        // What the bus starts gets its environment, and must not see the real session's.
        set_environment(&mut bus, &folder, &address);
        let mut bus = bus.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                "there is no dbus-daemon; install it: apt install dbus, or dnf install dbus-daemon".to_owned()
            }
            _ => format!("dbus-daemon does not start: {error}"),
        })?;
        let stdout = bus.stdout.take().ok_or("dbus-daemon has no output")?;
        let ready = tokio::time::timeout(PATIENCE, BufReader::new(stdout).lines().next_line()).await;
        if !matches!(ready, Ok(Ok(Some(_)))) {
            return Err("dbus-daemon did not start".to_owned());
        }
        let environment = Self { provider, address, folder, _bus: bus, secret };
        environment.bearerctl(&["set-secret", ACCOUNT], &environment.secret).await?;
        Ok(environment)
    }

    /// A program in this session.
    pub(super) fn command(&self, program: &str) -> Command {
        // Ours first, wherever a shell of the command's finds them.
        let own = self.folder.path().join("bin").join(program);
        let mut command = Command::new(if own.exists() { own } else { PathBuf::from(program) });
        set_environment(&mut command, &self.folder, &self.address);
        command.env("BEARERD_SANDBOX_API", self.provider.profile_url());
        command.kill_on_drop(true);
        command
    }

    /// Runs a program to its end.
    pub(super) async fn output(
        &self,
        program: &str,
        arguments: &[&str],
        stdin: &str,
    ) -> Result<Output, String> {
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
        if let Some(mut input) = child.stdin.take() {
            // It may end without reading.
            let _ = input.write_all(stdin.as_bytes()).await;
        }
        let end = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        end.map_err(|_| format!("{program} did not end"))?.map_err(|error| format!("{program}: {error}"))
    }

    /// Runs bearerctl, which must succeed; what it printed.
    pub(super) async fn bearerctl(&self, arguments: &[&str], stdin: &str) -> Result<String, String> {
        let done = self.output("bearerctl", arguments, stdin).await?;
        if !done.status.success() {
            return Err(format!(
                "bearerctl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&done.stderr).trim()
            ));
        }
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }

    /// Logs in; the consent page is answered here, or in the real browser.
    pub(super) async fn log_in(&self, browser: bool) -> Result<(), String> {
        let mut command = self.command("bearerctl");
        command.args(["login", ACCOUNT]).stderr(Stdio::piped()).stdin(Stdio::null());
        if !browser {
            command.arg("--no-browser");
        }
        let mut child = command.spawn().map_err(|error| format!("bearerctl: {error}"))?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("bearerctl has no output")?).lines();
        let mut said = String::new();
        let follow = async {
            while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
                let url = line.trim();
                if url.starts_with("http://") && !browser {
                    consent::approve(url).await?;
                } else if browser {
                    say(&line);
                }
                said = format!("{said}\n{url}");
            }
            child.wait().await.map_err(|error| error.to_string())
        };
        let patience = if browser { Duration::from_secs(600) } else { PATIENCE };
        match tokio::time::timeout(patience, follow).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(_)) => Err(format!("the login did not succeed:{said}")),
            Ok(Err(why)) => Err(format!("the login did not succeed: {why}")),
            Err(_) => Err("the login did not end".to_owned()),
        }
    }

    /// Runs somebody's command, with our terminal, and returns its exit code.
    pub(super) async fn run(&self, command: &[String]) -> Result<ExitCode, String> {
        let Some((program, arguments)) = command.split_first() else { return Err("no command".to_owned()) };
        let mut child =
            self.command(program).args(arguments).spawn().map_err(|error| format!("{program}: {error}"))?;
        let status = child.wait().await.map_err(|error| format!("{program}: {error}"))?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(ExitCode::from(code.unwrap_or(1)))
    }
}

/// The private session's variables over ours; nothing of the real session's bus or configuration.
fn set_environment(command: &mut Command, folder: &tempfile::TempDir, address: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::iter::once(folder.path().join("bin"));
    if let Ok(path) = std::env::join_paths(own.chain(std::env::split_paths(&path))) {
        command.env("PATH", path);
    }
    command.env("DBUS_SESSION_BUS_ADDRESS", address);
    command.env("XDG_CONFIG_HOME", folder.path().join("config"));
    command.env("XDG_STATE_HOME", folder.path().join("state"));
    command.env("XDG_RUNTIME_DIR", folder.path().join("run"));
    for variable in ["NOTIFY_SOCKET", "JOURNAL_STREAM", "WATCHDOG_USEC"] {
        command.env_remove(variable);
    }
}

/// A line on the terminal. That nobody reads it is no reason to fail.
pub(super) fn say(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
