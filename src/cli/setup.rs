//! `bearerctl setup`: makes a bearerd that was installed below a home known to systemd and to the bus.
//!
//! **Invariant:** no file is replaced or removed that was not written here.

use std::io;
use std::path::{Path, PathBuf};

use tokio::process::Command;
use zbus::fdo::DBusProxy;

use super::failure::Failure;
use super::output;

const UNIT: &str = include_str!("../../systemd/bearerd.service");
const ACTIVATION: &str = include_str!("../../dbus/org.bearerd.Broker1.service");
const MARK: &str = "# Written by: bearerctl setup. Removed by: bearerctl setup --remove\n";
/// Where a package puts the programs, and what the files above name.
const PACKAGED: &str = "/usr/bin";
/// Where programs come with files that systemd and the bus find by themselves.
const SYSTEM: &[&str] = &[PACKAGED, "/usr/local/bin"];

/// The two files, and where they belong.
struct Files {
    unit: PathBuf,
    activation: PathBuf,
}

impl Files {
    fn of_the_user() -> Result<Self, Failure> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = variable("HOME").ok_or_else(|| Failure::failed("HOME is not set; set it to your home"))?;
        let config = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        let data = variable("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share"));
        Ok(Self {
            unit: config.join("systemd/user/bearerd.service"),
            activation: data.join("dbus-1/services/org.bearerd.Broker1.service"),
        })
    }

    /// Removes what [`write()`] has written.
    fn remove(&self) -> Result<(), Failure> {
        for path in [&self.unit, &self.activation] {
            match std::fs::read_to_string(path) {
                Ok(text) if text.starts_with(MARK) => {
                    std::fs::remove_file(path).map_err(|error| cannot("remove", path, &error))?;
                    output::note(&format!("removed {}", path.display()));
                }
                Ok(_) => output::note(&format!(
                    "left {}, which was not written by bearerctl setup, and which is what counts",
                    path.display()
                )),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(cannot("read", path, &error)),
            }
        }
        Ok(())
    }
}

/// Writes or repairs both files, and starts bearerd with the session from now on.
pub(super) async fn install() -> Result<(), Failure> {
    let programs = programs()?;
    let files = Files::of_the_user()?;
    if let Some(unit) = brought_with(&programs) {
        output::note(&format!("bearerd came with its unit, {}", unit.display()));
        // Files of this user win over those of the system.
        files.remove()?;
    } else {
        let plain = plain(&programs)?;
        for (path, text) in [(&files.unit, UNIT), (&files.activation, ACTIVATION)] {
            write(path, &text.replace(PACKAGED, plain))?;
        }
        for unit in SYSTEM.iter().filter_map(|folder| brought_with(Path::new(folder))) {
            output::note(&format!(
                "{} is there too, of a package; for you {} wins over it, until: bearerctl setup --remove",
                unit.display(),
                files.unit.display()
            ));
        }
    }
    reload_bus().await;
    // A package may have enabled it for everybody; a link of this user's own would outlive the package.
    if systemctl(&["daemon-reload"]).await
        && (systemctl(&["is-enabled", "bearerd.service"]).await
            || systemctl(&["enable", "bearerd.service"]).await)
    {
        if !systemctl(&["restart", "bearerd.service"]).await {
            return Err(Failure::failed("bearerd does not start; see: journalctl --user -u bearerd"));
        }
        output::note("bearerd runs, and starts with your session from now on");
    } else {
        output::note("no systemd manages this session; the bus starts bearerd at the first call");
    }
    output::note("next run: bearerctl add NAME; to check everything: bearerctl doctor");
    Ok(())
}

/// Stops bearerd and removes what [`install`] has written. What is in the keyring stays there.
pub(super) async fn remove() -> Result<(), Failure> {
    let files = Files::of_the_user()?;
    systemctl(&["disable", "--now", "bearerd.service"]).await;
    files.remove()?;
    systemctl(&["daemon-reload"]).await;
    reload_bus().await;
    for unit in SYSTEM.iter().filter_map(|folder| brought_with(Path::new(folder))) {
        output::note(&format!(
            "{} of a package counts now; to be without it: systemctl --user mask bearerd",
            unit.display()
        ));
    }
    output::note("sessions stay in the keyring, and at the provider until they expire");
    Ok(())
}

/// The unit that was installed for everybody together with the programs in this folder.
fn brought_with(programs: &Path) -> Option<PathBuf> {
    let unit = programs.parent()?.join("lib/systemd/user/bearerd.service");
    (SYSTEM.iter().any(|folder| programs == Path::new(folder)) && unit.is_file()).then_some(unit)
}

/// The folder of this program, with bearerd beside it.
fn programs() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("cannot find bearerctl: {error}")))?;
    let folder = own.parent().unwrap_or(Path::new("/")).to_owned();
    if folder.join("bearerd").is_file() {
        Ok(folder)
    } else {
        Err(Failure::failed(format!(
            "there is no bearerd in {}; install both programs there",
            folder.display()
        )))
    }
}

/// A path that unit and activation files take as it is.
fn plain(folder: &Path) -> Result<&str, Failure> {
    let harmless = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | '@');
    folder.to_str().filter(|text| text.chars().all(harmless)).ok_or_else(|| {
        Failure::failed(format!(
            "the path {} has characters that unit files treat specially; install bearerd elsewhere",
            folder.display()
        ))
    })
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let wanted = format!("{MARK}{text}");
    match std::fs::read_to_string(path) {
        Ok(present) if present == wanted => {
            output::note(&format!("{} is as it should be", path.display()));
            return Ok(());
        }
        // Also one that was made by hand from the same text.
        Ok(present) if !present.starts_with(MARK) && present != text => {
            return Err(Failure::failed(format!(
                "{} was not written by bearerctl setup; move it away and try again",
                path.display()
            )));
        }
        _ => {}
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| cannot("make", folder, &error))?;
    }
    std::fs::write(path, wanted).map_err(|error| cannot("write", path, &error))?;
    output::note(&format!("wrote {}", path.display()));
    Ok(())
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}

/// Whether there is a service manager, and it did that.
async fn systemctl(arguments: &[&str]) -> bool {
    let done = Command::new("systemctl").arg("--user").args(arguments).output().await;
    done.is_ok_and(|done| done.status.success())
}

/// Makes the bus look for activation files again. One that is not there will see them when it starts.
async fn reload_bus() {
    if let Ok(connection) = zbus::Connection::session().await
        && let Ok(bus) = DBusProxy::new(&connection).await
    {
        let _ = bus.reload_config().await;
    }
}
