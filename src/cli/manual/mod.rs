//! What shells and readers of manuals get, made from the arguments and the documents themselves.

use std::io;
use std::path::Path;

use clap::CommandFactory as _;
use clap_mangen::Man;

use super::failure::Failure;
use super::{Arguments, output};

mod completions;
mod markdown;

/// The pages beside those of the commands: file name, one line about it, and its document.
const DOCUMENTS: &[(&str, &str, &str)] = &[
    ("bearerd.1", "the token broker of this session", include_str!("bearerd.md")),
    ("bearerd.toml.5", "configuration of bearerd", include_str!("../../../docs/configuration.md")),
    ("org.bearerd.Broker1.5", "the D-Bus interface of bearerd", include_str!("../../../docs/dbus.md")),
];
const SEE_ALSO: &str = "## See also\n\nbearerd(1), bearerd.toml(5), org.bearerd.Broker1(5)\n";

pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(shell, &mut command, "bearerctl", &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    print(completions::with_accounts(shell, &command, text).as_bytes())
}

pub(super) fn pages(folder: Option<&Path>) -> Result<(), Failure> {
    match folder {
        Some(folder) => write(folder)
            .map_err(|error| Failure::failed(format!("cannot write into {}: {error}", folder.display()))),
        None => print(&bearerctl().map_err(|error| Failure::failed(error.to_string()))?),
    }
}

fn bearerctl() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(Arguments::command()).render(&mut page)?;
    page.extend(markdown::body(SEE_ALSO).into_bytes());
    Ok(page)
}

fn write(folder: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Arguments::command(), folder)?;
    std::fs::write(folder.join("bearerctl.1"), bearerctl()?)?;
    #[cfg(feature = "sandbox")]
    clap_mangen::generate_to(crate::sandbox::command(), folder)?;
    for (file, about, document) in DOCUMENTS {
        std::fs::write(folder.join(file), markdown::page(file, about, document))?;
    }
    Ok(())
}

fn print(text: &[u8]) -> Result<(), Failure> {
    output::data(String::from_utf8_lossy(text).trim_end())
}
