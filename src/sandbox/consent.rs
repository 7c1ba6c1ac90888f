//! What a person does with a browser at the embedded provider.

use url::Url;

/// Follows the address of a login, says yes on the consent page, and is sent back to the listener.
///
/// # Errors
/// The step that did not succeed.
pub async fn approve(url: &str) -> Result<(), String> {
    let failed = |error: reqwest::Error| format!("the consent page: {error}");
    let browser = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let browser = browser.build().map_err(failed)?;
    let page = browser.get(url).send().await.map_err(failed)?.text().await.map_err(failed)?;
    let value_of = |name: &str| {
        let start = page.split(name).nth(1)?;
        start.split('"').next().map(str::to_owned)
    };
    let pending = value_of("name=\"pending\" value=\"").ok_or("the provider showed no consent page")?;
    let action = value_of("action=\"").unwrap_or_default();
    let consent = Url::parse(url).and_then(|url| url.join(&action)).map_err(|error| error.to_string())?;
    let form = [("pending", pending.as_str()), ("accept", "yes")];
    let answer = browser.post(consent).form(&form).send().await.map_err(failed)?;
    let back = next(&answer).ok_or("the provider did not send the browser back")?;
    let answer = browser.get(back).send().await.map_err(failed)?;
    if let Some(last_page) = next(&answer) {
        browser.get(last_page).send().await.map_err(failed)?;
    }
    Ok(())
}

/// Where an answer sends the browser.
fn next(answer: &reqwest::Response) -> Option<Url> {
    answer.url().join(answer.headers().get("location")?.to_str().ok()?).ok()
}
