//! What shells and readers of manuals get, made from the arguments themselves.

use std::path::Path;

use clap::CommandFactory as _;

use super::failure::Failure;
use super::{Arguments, output};

pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "bearerctl", &mut text);
    print(&text)
}

pub(super) fn pages(folder: Option<&Path>) -> Result<(), Failure> {
    let Some(folder) = folder else {
        let mut text = Vec::new();
        let made = clap_mangen::Man::new(Arguments::command()).render(&mut text);
        made.map_err(|error| Failure::failed(error.to_string()))?;
        return print(&text);
    };
    clap_mangen::generate_to(Arguments::command(), folder)
        .map_err(|error| Failure::failed(format!("cannot write into {}: {error}", folder.display())))
}

fn print(text: &[u8]) -> Result<(), Failure> {
    if output::data(String::from_utf8_lossy(text).trim_end()) {
        Ok(())
    } else {
        Err(Failure::failed("nobody reads the output"))
    }
}
