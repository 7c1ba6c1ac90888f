//! One call over the direct socket: blocking, and without a runtime, for that is what makes a short command
//! short. It writes handshake and call at once and reads one answer.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use zbus::zvariant::serialized::{Context, Data};
use zbus::zvariant::{DynamicType, LE, ObjectPath, Signature, Type, Value, to_bytes};
use zeroize::Zeroizing;

use crate::bus::direct::SOCKET;
use crate::bus::{Error, NAME, ROOT_PATH, handshake};

/// More than any call lasts.
const TIMEOUT: Duration = Duration::from_secs(30);
/// An answer is a token and a few words.
const MAX_ANSWER: u64 = 1024 * 1024;
/// Kinds of messages and of their fields, as the D-Bus specification numbers them.
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const SIGNATURE: u8 = 8;
/// Byte order, type, flags, version, body length, serial, length of the fields.
const FIXED: usize = 16;

const LE_MARK: u8 = b'l';

type Fields<'a> = Vec<(u8, Value<'a>)>;

/// Calls a method of the root object. `None`: there is no socket, or it is not for this; ask over the bus,
/// which starts the daemon and knows all accounts.
pub(super) fn call<B, R>(member: &str, body: &B) -> Option<Result<R, Error>>
where
    B: serde::Serialize + DynamicType,
    R: Type + DeserializeOwned,
{
    match exchange(member, body) {
        Ok(Err(Error::AccessDenied(_))) | Err(_) => None,
        Ok(answer) => Some(answer),
    }
}

fn exchange<B, R>(member: &str, body: &B) -> io::Result<Result<R, Error>>
where
    B: serde::Serialize + DynamicType,
    R: Type + DeserializeOwned,
{
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let path = folder.ok_or(io::ErrorKind::NotFound)?.join("bearerd").join(SOCKET);
    let mut stream = UnixStream::connect(path)?;
    if rustix::net::sockopt::socket_peercred(&stream)?.uid != rustix::process::getuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut request = format!("\0AUTH EXTERNAL {}\r\nBEGIN\r\n", handshake::own_uid()).into_bytes();
    request.extend(Zeroizing::new(message(member, body).map_err(io::Error::other)?).iter());
    stream.write_all(&Zeroizing::new(request))?;

    let mut input = BufReader::with_capacity(16 * 1024, stream);
    let mut welcome = String::new();
    input.by_ref().take(256).read_line(&mut welcome)?;
    if !welcome.starts_with("OK ") {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    read_answer(&mut input)
}

fn message<B: serde::Serialize + DynamicType>(member: &str, body: &B) -> zbus::zvariant::Result<Vec<u8>> {
    let context = Context::new_dbus(LE, 0);
    let signature = body.signature();
    let body = to_bytes(context, body)?;
    let arguments = match &signature {
        // Arguments are not one structure.
        Signature::Structure(fields) => fields.iter().map(ToString::to_string).collect(),
        other => other.to_string(),
    };
    let fields: Fields<'_> = vec![
        (PATH, ObjectPath::from_static_str_unchecked(ROOT_PATH).into()),
        (INTERFACE, NAME.into()),
        (MEMBER, member.into()),
        (SIGNATURE, Signature::try_from(arguments.as_str())?.into()),
    ];
    let length = u32::try_from(body.len()).map_err(|_| zbus::zvariant::Error::OutOfBounds)?;
    let header = (LE_MARK, METHOD_CALL, 0_u8, 1_u8, length, 1_u32, fields);
    let mut bytes = to_bytes(context, &header)?.to_vec();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn read_answer<R>(input: &mut impl io::Read) -> io::Result<Result<R, Error>>
where
    R: Type + DeserializeOwned,
{
    let mut fixed = [0; FIXED];
    input.read_exact(&mut fixed)?;
    let number = |at: usize| -> u64 {
        let bytes: [u8; 4] =
            fixed.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
        u32::from_le_bytes(bytes).into()
    };
    let (body, fields) = (number(4), number(12));
    // On a machine of the other byte order the bus serves.
    if fixed[0] != LE_MARK || body > MAX_ANSWER || fields > MAX_ANSWER {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let body_at = usize::try_from(fields.next_multiple_of(8)).map_err(io::Error::other)?;
    let length = body_at + usize::try_from(body).map_err(io::Error::other)?;
    let mut rest = Zeroizing::new(vec![0; length]);
    input.read_exact(&mut rest)?;
    let body = Data::new(rest.get(body_at..).unwrap_or_default(), Context::new_dbus(LE, 0));
    if fixed[1] == METHOD_RETURN {
        return Ok(Ok(body.deserialize::<R>().map_err(io::Error::other)?.0));
    }
    // Errors only: their fields start with their length, which was read already.
    let mut array = fixed[12..].to_vec();
    array.extend_from_slice(rest.get(..body_at).unwrap_or_default());
    let array = Data::new(array, Context::new_dbus(LE, 12));
    let (fields, _) = array.deserialize::<Fields<'_>>().map_err(io::Error::other)?;
    let name = fields
        .iter()
        .find(|(code, _)| *code == ERROR_NAME)
        .and_then(|(_, name)| name.downcast_ref::<&str>().ok());
    let text = body.deserialize::<String>().map(|(text, _)| text).unwrap_or_default();
    name.and_then(|name| Error::received(name, text)).map(Err).ok_or(io::ErrorKind::InvalidData.into())
}
