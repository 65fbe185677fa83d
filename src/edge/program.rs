//! Another program in the place of this one.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::process::Command;

use super::interrupt;
use crate::core::types::Fault;

/// What a shell returns for a command that does not exist, or that cannot be started.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;

/// Becomes `words`, a command and its arguments, and so returns only on Windows, or with the code
/// of a failure that was reported: then that command has not run.
pub fn run(words: &[OsString]) -> Result<u8, Fault> {
    let Some((name, arguments)) = words.split_first() else {
        return Err(Fault::new("no command was given", "write it after --"));
    };
    interrupt::leave_to_child();
    match become_command(Command::new(name).args(arguments)) {
        Ok(code) => Ok(code),
        Err(error) => {
            eprintln!("toctoc: {}: {error}", name.to_string_lossy());
            Ok(if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_STARTED })
        }
    }
}

#[cfg(unix)]
fn become_command(command: &mut Command) -> io::Result<u8> {
    use std::os::unix::process::CommandExt;
    Err(command.exec())
}

#[cfg(not(unix))]
fn become_command(command: &mut Command) -> io::Result<u8> {
    let status = command.status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
