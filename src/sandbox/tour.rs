//! The tour: what bearerd does for its callers, each step done for real and checked.

use std::time::Duration;

use super::environment::{ACCOUNT, Environment, PATIENCE, say};

/// Short enough that a renewal can be watched.
pub(super) const SESSION: Duration = Duration::from_secs(20);

/// Walks through the main job.
///
/// # Errors
/// The first step that did not happen.
pub(super) async fn walk(environment: &Environment, browser: bool) -> Result<(), String> {
    let provider = &environment.provider;
    say(&format!(
        "A private session bus and an OpenID provider ({}) run for this tour.\n\
         bearerd is started by the first call. Nothing of your own session is touched.",
        provider.issuer()
    ));

    step("A program asks for a token, and nobody has logged in:");
    let (argv, refused) = get_token(environment).await?;
    show(&argv, &refused.1);
    check(!refused.0 && refused.1.contains("LoginRequired"), "GetToken should have asked for a login")?;

    step("So the user logs in, once:");
    say(&format!("  $ bearerctl login {ACCOUNT}"));
    environment.log_in(browser).await?;
    say(if browser {
        "  done in the browser"
    } else {
        "  (the tour has pressed \"Yes\" on the consent page)"
    });
    let status = environment.bearerctl(&["status"], "").await?;
    show("bearerctl status", &status);

    step("From now on every program gets a token at once, over D-Bus or on the command line:");
    let (argv, granted) = get_token(environment).await?;
    show(&argv, &shorten(&granted.1));
    check(granted.0, "GetToken should have answered with a token")?;
    let first = environment.bearerctl(&["token", ACCOUNT], "").await?;
    show(&format!("bearerctl token {ACCOUNT}"), &shorten(&first));
    check(provider.accepts(&first), "the provider should accept the token")?;

    step(&format!(
        "The provider ends sessions that are idle for {} s. Nobody asks for anything now; bearerd renews by itself:",
        SESSION.as_secs()
    ));
    let before = provider.token_requests("refresh_token").len();
    within("a renewal", provider.wait_for("refresh_token", before + 1)).await?;
    settled(environment).await?;
    let renewed = environment.bearerctl(&["token", ACCOUNT], "").await?;
    say(&format!("  renewed: {}", shorten(&renewed)));
    check(renewed != first && provider.accepts(&renewed), "the renewed token should be another one")?;

    step("An API answers 401 to a token; its caller says so, and gets another one:");
    environment.bearerctl(&["reject", ACCOUNT], &renewed).await?;
    let another = environment.bearerctl(&["token", ACCOUNT], "").await?;
    show(
        &format!("bearerctl token {ACCOUNT} | bearerctl reject {ACCOUNT}; bearerctl token {ACCOUNT}"),
        &shorten(&another),
    );
    check(another != renewed && provider.accepts(&another), "there should be another token")?;

    step("The provider goes down. Callers keep the token that lives, and are told the truth:");
    provider.go_down();
    let refused = environment.output("bearerctl", &["refresh", ACCOUNT], "").await?;
    let said = String::from_utf8_lossy(&refused.stderr).trim().to_owned();
    show(&format!("bearerctl refresh {ACCOUNT}"), &said);
    check(
        refused.status.code() == Some(5) && said.contains("ProviderUnreachable"),
        "it should be unreachable",
    )?;
    let kept = environment.bearerctl(&["token", ACCOUNT], "").await?;
    check(kept == another, "the token should be served meanwhile")?;
    provider.come_up().await.map_err(|error| format!("the provider cannot come back: {error}"))?;
    settled(environment).await?;
    say("  it came back, and so did the session; nobody logged in again");
    check(provider.token_requests("authorization_code").len() == 1, "there should have been one login")?;

    step("The end, here and at the provider:");
    let out = environment.output("bearerctl", &["logout", ACCOUNT], "").await?;
    show(&format!("bearerctl logout {ACCOUNT}"), String::from_utf8_lossy(&out.stderr).trim());
    check(out.status.success() && provider.live_sessions() == 0, "the session should have ended")?;

    say(
        "\nAll of it happened. Next: README.md, \"First login\", or a command of yours in here:\n  bearerd-sandbox -- bash",
    );
    Ok(())
}

/// `GetToken` with what every machine with a bus has: the command, and whether it succeeded, with its output.
async fn get_token(environment: &Environment) -> Result<(String, (bool, String)), String> {
    let name = "org.bearerd.Broker1";
    let path = "/org/bearerd/Broker1";
    let busctl = ["--user", "call", name, path, name, "GetToken", "s", ACCOUNT];
    let destination = format!("--dest={name}");
    let (method, argument) = (format!("{name}.GetToken"), format!("string:{ACCOUNT}"));
    let dbus_send = ["--session", "--print-reply", &destination, path, &method, &argument];
    let (program, arguments) = if environment.output("busctl", &["--version"], "").await.is_ok() {
        ("busctl", &busctl[..])
    } else {
        ("dbus-send", &dbus_send[..])
    };
    let done = environment.output(program, arguments, "").await?;
    let text = if done.status.success() { done.stdout } else { done.stderr };
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Ok((format!("{program} {}", arguments.join(" ")), (done.status.success(), text)))
}

/// Waits until the account says that all is well.
async fn settled(environment: &Environment) -> Result<(), String> {
    let ready = async {
        loop {
            let status = environment.bearerctl(&["status", ACCOUNT, "--json"], "").await?;
            if status.contains("\"state\":\"ready\"") {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    within("the account to be ready", ready).await?
}

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> Result<T, String> {
    let progress = async {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            say("  …");
        }
    };
    tokio::select! {
        done = wait => Ok(done),
        () = progress => Err(String::new()),
        () = tokio::time::sleep(PATIENCE) => Err(format!("waited in vain for {what}")),
    }
}

fn check(happened: bool, what: &str) -> Result<(), String> {
    if happened { Ok(()) } else { Err(format!("{what}, and did not")) }
}

fn step(text: &str) {
    say(&format!("\n{text}"));
}

fn show(command: &str, output: &str) {
    say(&format!("  $ {command}"));
    for line in output.lines() {
        say(&format!("  {line}"));
    }
}

/// The beginning of a token is enough to see that it is another one.
fn shorten(text: &str) -> String {
    text.split(' ')
        .map(|word| match word.char_indices().nth(24) {
            Some((at, _)) if word.contains("canary-at-") => {
                format!("{}…", word.get(..at).unwrap_or_default())
            }
            _ => word.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}
