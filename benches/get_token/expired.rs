//! One token that has expired while its renewal waits for the provider, and a thousand callers who want it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use bearerd::bus::proxy::BrokerProxy;
use bearerd::clock::Clock;
use bearerd::sandbox::provider::{Fault, Provider, Settings};

use crate::figures::{Findings, Goal, Samples};
use crate::pin;
use crate::stage::{ACCOUNT, Place, log_in};
use crate::support::Error;

const CALLERS: usize = 1000;
/// They share this many connections.
const CONNECTIONS: usize = 64;
/// Longer than two refreshes are apart at least.
const SHORT: Duration = Duration::from_secs(15);
/// For all questions to arrive, before the provider answers.
const GATHERING: Duration = Duration::from_secs(1);

pub(crate) async fn measure() -> Result<Findings, Error> {
    pin(false)?;
    let clock = Clock::system()?;
    let settings = Settings { access_lifetime: SHORT, client_secret: None, ..Settings::default() };
    let provider = Provider::start(settings).await?;
    let place = Place::new(&provider, 1, "memory")?;
    let _daemon = place.start().await?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(BrokerProxy::new(&place.bus.connect().await?).await?);
    }
    let first = connections.first().ok_or("there is no connection")?;
    log_in(first.inner().connection(), ACCOUNT).await?;
    provider.next(Fault::Hold);
    provider.configure(|settings| settings.access_lifetime = Duration::from_secs(300));
    clock.sleep(SHORT).await;

    let calls = connections.iter().cycle().take(CALLERS).map(|broker| async {
        let answer = broker.get_token_with_options(ACCOUNT, HashMap::new()).await;
        (answer, clock.now().boot)
    });
    let release = async {
        clock.sleep(GATHERING).await;
        let released = clock.now().boot;
        provider.release();
        released
    };
    let (answers, released) = tokio::join!(futures_util::future::join_all(calls), release);

    let (mut took, mut valid) = (Samples::default(), 0.0);
    for (answer, at) in answers {
        if provider.accepts(&answer?.0) {
            valid += 1.0;
            took.add(at.since(released));
        }
    }
    let asked = f64::from(u32::try_from(provider.token_requests("refresh_token").len())?);
    let mut findings = Findings::default();
    writeln!(
        findings.text,
        "From the provider's answer to that of a caller: {} ms; to the last one's {:.0} ms.\n",
        took.in_milliseconds(),
        took.quantile(CALLERS - 1, CALLERS) / 1e3
    )?;
    findings.goals = vec![
        Goal::at_least("one expired token, 1000 callers at once: valid tokens", valid, 1000.0),
        Goal::at_most("one expired token, 1000 callers at once: requests to the provider", asked, 1.0),
    ];
    Ok(findings)
}
