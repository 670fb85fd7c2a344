//! Completions and manual pages, out of the definition of the command line.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Arguments;
use crate::failure::Failure;

/// `completions`
pub(crate) fn completions(shell: Shell) -> Result<String, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "shunt", &mut script);
    text(script)
}

/// `man`: the page of `shunt` itself, or one for each command in a folder.
pub(crate) fn pages(folder: Option<&Path>) -> Result<String, Failure> {
    let Some(folder) = folder else {
        let mut page = Vec::new();
        let made = clap_mangen::Man::new(Arguments::command()).render(&mut page);
        made.map_err(|error| Failure::Other(format!("man: {error}")))?;
        return text(page);
    };
    let failed = |error| Failure::Other(format!("man: {}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command(), folder).map_err(failed)?;
    Ok(format!("manual pages are in {}\n", folder.display()))
}

fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| Failure::Other(error.to_string()))
}
