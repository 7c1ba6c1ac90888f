//! How the client proves who it is: where its secret or its key is.

use super::account::{Layers, path};
use super::file::{ConfigError, Field};
use super::{ClientAuth, ConfigDirs, SecretSource};
use crate::oidc::assertion::{Key, KeyFile};
use crate::secret::ClientSecret;

pub(super) fn secret(
    layers: &Layers<'_>,
    place: &Field<'_>,
    auth: Option<ClientAuth>,
    dirs: &ConfigDirs,
    warnings: &mut Vec<String>,
) -> Result<SecretSource, ConfigError> {
    let (inline, file) = (layers.own.get("client_secret"), layers.own.get("client_secret_file"));
    let useless = match auth {
        Some(ClientAuth::None) => Some("none"),
        Some(ClientAuth::PrivateKeyJwt) => Some("private_key_jwt"),
        Some(ClientAuth::Basic | ClientAuth::BasicRaw | ClientAuth::Post) | None => None,
    };
    if let (Some(auth), Some(field)) = (useless, inline.or(file)) {
        return Err(field.error(&format!("has no use with client_auth = {auth:?}; remove one of them")));
    }
    if let Some(key) = key(layers, place, auth, dirs)? {
        return Ok(SecretSource::Key(key));
    }
    match (inline, file) {
        (Some(field), Some(_)) => Err(field.error("and `client_secret_file` are both given; remove one")),
        (None, None) => Ok(SecretSource::Store),
        (None, Some(field)) => Ok(SecretSource::File(path(&field, dirs)?)),
        (Some(field), None) => {
            let remedy = "better: remove it and run: bearerctl set-secret ACCOUNT";
            if field.document.exposed {
                return Err(
                    field.error(&format!("is in a file that others can read; chmod 600 it, or {remedy}"))
                );
            }
            let secret = ClientSecret::parse(field.string()?)
                .map_err(|why| field.error(&format!("cannot be used: {why}")))?;
            let file = field.document.path.display();
            warnings.push(format!("{file}:{}: `client_secret` is in plain text; {remedy}", field.line()));
            Ok(SecretSource::Inline(secret))
        }
    }
}

/// The key file, if the client signs; it is read once here, so that a wrong one shows now.
fn key(
    layers: &Layers<'_>,
    place: &Field<'_>,
    auth: Option<ClientAuth>,
    dirs: &ConfigDirs,
) -> Result<Option<KeyFile>, ConfigError> {
    let (file, id) = (layers.own.get("client_key_file"), layers.own.get("client_key_id"));
    if auth != Some(ClientAuth::PrivateKeyJwt) {
        return match file.or(id) {
            Some(field) => Err(field.error("needs client_auth = \"private_key_jwt\"")),
            None => Ok(None),
        };
    }
    let file = file.ok_or_else(|| {
        place.error("needs `client_key_file`, the key to sign with, for client_auth = \"private_key_jwt\"")
    })?;
    let path = path(&file, dirs)?;
    if let Err(why) = Key::read(&path) {
        return Err(file.error(&format!("{} {why}", path.display())));
    }
    let id = id.map(|field| field.string().map(str::to_owned)).transpose()?;
    Ok(Some(KeyFile { path, id }))
}
