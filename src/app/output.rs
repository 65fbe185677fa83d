//! Output and exit codes of the commands.

use std::io::Write;

use zeroize::Zeroizing;

use crate::core::types::{Fault, FaultKind};

/// `toctocd`: done.
pub const DONE: u8 = 0;
/// `toctocd`: it could not be done.
pub const FAILED: u8 = 1;
/// `toctocd`: wrong usage, configuration or keys; nothing was changed.
pub const WRONG: u8 = 2;

/// `toctocd`: no gateway is running here, or it does not answer.
const NOT_RUNNING: u8 = 3;
/// `toctocd`: another process has it; nothing was changed.
const HELD: u8 = 4;
/// `toctocd`: the name exists already, or nothing has it; nothing was changed.
const NAME: u8 = 5;

/// What a command prints, and its exit code.
pub struct CommandOutput {
    /// For standard output; may hold a profile, so it is wiped.
    pub out: Zeroizing<String>,
    /// For standard error: hints, and problems found after the work was done.
    pub err: String,
    /// The exit code.
    pub code: u8,
}

impl CommandOutput {
    /// Text for standard output of a command that is done.
    pub fn out(text: String) -> Self {
        Self { out: Zeroizing::new(text), err: String::new(), code: DONE }
    }

    /// Prints both texts and returns the exit code.
    pub fn print(&self) -> u8 {
        print(&self.out);
        // Nobody is left to tell if standard error is closed.
        let _ = std::io::stderr().write_all(self.err.as_bytes());
        self.code
    }
}

/// Prints to standard output. A closed pipe (`| head`) is no error: the reader wanted no more.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The exit code of a command of `toctocd`; a fault is printed, and `code` is its code.
pub fn finish(outcome: Result<u8, Fault>, code: u8) -> u8 {
    match outcome {
        Ok(done) => done,
        Err(fault) => {
            eprintln!("toctocd: {fault}");
            match fault.kind {
                FaultKind::Other => code,
                FaultKind::NotRunning => NOT_RUNNING,
                FaultKind::Held => HELD,
                FaultKind::Name => NAME,
            }
        }
    }
}

/// `1 grant`, `2 grants`.
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_everything_else_is_plural() {
        assert_eq!([0, 1, 2].map(|n| count(n, "grant")), ["0 grants", "1 grant", "2 grants"]);
    }

    #[test]
    fn a_fault_takes_the_code_it_is_given_and_success_keeps_its_own() {
        assert_eq!(finish(Ok(FAILED), WRONG), FAILED);
        assert_eq!(finish(Err(Fault::new("a", "b")), WRONG), WRONG);
    }
}
