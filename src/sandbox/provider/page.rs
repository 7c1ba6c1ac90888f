//! The consent page.

/// Asks the user; the answer is posted to `action` with the pending authorization's id.
pub(super) fn consent(action: &str, pending: &str, user: &str, scope: &str) -> String {
    let scopes: Vec<String> = scope.split_whitespace().map(escape).collect();
    let scopes = scopes.join("</li><li>");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sandbox: grant access?</title></head>\n\
         <body><h1>Grant access?</h1><p>You are <b>{}</b>. A program on this machine asks for:</p><ul><li>{scopes}</li></ul>\n\
         <form method=\"post\" action=\"{}\"><input type=\"hidden\" name=\"pending\" value=\"{}\">\n\
         <button name=\"accept\" value=\"yes\">Yes</button> <button name=\"cancel\" value=\"no\">No</button></form>\n\
         </body></html>\n",
        escape(user),
        escape(action),
        escape(pending)
    )
}

/// Posts the response to the client's redirect URI (OAuth 2.0 Form Post Response Mode).
pub(super) fn form_post(action: &str, parameters: &[(&str, &str)]) -> String {
    let fields: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escape(value)))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sandbox: back to the program</title></head>\n\
         <body onload=\"document.forms[0].submit()\"><form method=\"post\" action=\"{}\">{}<button>Go on</button></form>\n\
         </body></html>\n",
        escape(action),
        fields.concat()
    )
}

/// The end of a login that another device waits for.
pub(super) fn device_answered() -> String {
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sandbox: answered</title></head>\n\
     <body><h1>Thank you</h1><p>You can go back to your device.</p></body></html>\n"
        .to_owned()
}

/// Says what is wrong with an authorization request that must not be redirected (RFC 6749 section 4.1.2.1).
pub(super) fn error(why: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sandbox: error</title></head>\n\
         <body><h1>We are sorry…</h1><p>{}</p></body></html>\n",
        escape(why)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
