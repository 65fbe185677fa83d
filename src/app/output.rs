//! Output and exit codes of the commands.

use std::io::{IsTerminal, Write};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::core::columns::fitted;
use crate::core::types::{Fault, FaultKind, ServiceName};

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

pub struct CommandOutput {
    /// For standard output; may hold a profile, so it is wiped.
    pub out: Zeroizing<String>,
    /// For standard error: hints, and problems found after the work was done.
    pub err: String,
    pub code: u8,
    /// The answer for `--json`, if it is more than the text.
    pub value: Option<Value>,
    /// True if `out` is for a program or a file, so that its lines stay as they are.
    pub is_data: bool,
}

impl CommandOutput {
    /// Text for standard output of a command that is done.
    pub fn out(text: String) -> Self {
        let out = Zeroizing::new(text);
        Self { out, err: String::new(), code: DONE, value: None, is_data: false }
    }

    /// The same for a program or a file.
    pub fn data(text: String) -> Self {
        Self { is_data: true, ..Self::out(text) }
    }

    pub fn print(&self) -> u8 {
        match self.is_data {
            true => print(&self.out),
            false => tell(&self.out),
        }
        print_error(&self.err);
        self.code
    }

    /// The answer as JSON. It may hold a profile.
    pub fn json(&self) -> Zeroizing<String> {
        if let Some(value) = &self.value {
            return Zeroizing::new(format!("{value:#}\n"));
        }
        let notes: Vec<&str> = self.err.lines().collect();
        let result = if self.code == DONE { "done" } else { "failed" };
        let said = json!({ "result": result, "out": self.out.as_str(), "notes": notes });
        Zeroizing::new(format!("{said:#}\n"))
    }

    /// What goes to standard error beside an answer as JSON: notes that are not in it.
    pub fn beside_json(&self) -> &str {
        if self.value.is_some() { &self.err } else { "" }
    }

    /// Prints the answer as JSON and returns the exit code.
    fn print_json(&self) -> u8 {
        print(&self.json());
        print_error(self.beside_json());
        self.code
    }
}

/// Prints to standard output. A closed pipe (`| head`) is no error: the reader wanted no more.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The same, for people.
pub fn tell(text: &str) {
    print(&for_people(text, std::io::stdout().is_terminal()));
}

/// Prints to standard error. Nobody is left to tell if that is closed.
pub fn print_error(text: &str) {
    let text = for_people(text, std::io::stderr().is_terminal());
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// At a terminal in lines that fit; in a pipe or a file a line is a line. It may hold a profile.
pub fn for_people(text: &str, is_terminal: bool) -> Zeroizing<String> {
    Zeroizing::new(if is_terminal { fitted(text) } else { text.to_owned() })
}

/// A fault as the answer to `--json`.
pub fn fault_json(fault: &Fault) -> Value {
    let mut value = json!({ "result": "fault", "what": fault.what, "remedy": fault.remedy });
    if !fault.more.is_empty() {
        value["more"] = Value::from(fault.more.as_str());
    }
    value
}

/// Prints the outcome of a command of `toctocd` and returns its exit code. `code` is that of a
/// fault without one of its own.
pub fn finish(outcome: Result<CommandOutput, Fault>, code: u8, as_json: bool) -> u8 {
    let fault = match outcome {
        Ok(output) if as_json => return output.print_json(),
        Ok(output) => return output.print(),
        Err(fault) => fault,
    };
    match as_json {
        true => print(&format!("{:#}\n", fault_json(&fault))),
        false => print_error(&format!("toctocd: {}", fault.lines())),
    }
    match fault.kind {
        FaultKind::Input => WRONG,
        FaultKind::NotRunning => NOT_RUNNING,
        FaultKind::Held => HELD,
        FaultKind::Name => NAME,
        // Of the client.
        _ => code,
    }
}

/// `ssh, web`.
pub fn service_list(services: &[ServiceName]) -> String {
    let names: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
    names.join(", ")
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
        let failed = CommandOutput { code: FAILED, ..CommandOutput::out(String::new()) };
        assert_eq!(finish(Ok(failed), WRONG, false), FAILED);
        for (kind, code) in [
            (FaultKind::Other, WRONG),
            (FaultKind::NotRunning, 3),
            (FaultKind::Held, 4),
            (FaultKind::Name, 5),
        ] {
            assert_eq!(finish(Err(Fault::new("a", "b").of(kind)), WRONG, true), code);
        }
    }
}
