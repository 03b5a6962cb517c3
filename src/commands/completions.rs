//! `securebase completions`.

use std::process::ExitCode;

use clap::CommandFactory;

use crate::cli::{self, Cli};
use crate::print;

/// Prints a script with which a shell completes commands, options and their values.
pub(super) fn run(arguments: &cli::Completions) -> ExitCode {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    // A reader that closes the pipe early is no failure.
    print::line(String::from_utf8_lossy(&script).trim_end());
    ExitCode::SUCCESS
}
