//! `toctocd audit`: what strangers and holders of a grant reach, measured in a copy of this host's
//! network. See `client::audit` for the scan from another machine.

#[cfg(all(target_os = "linux", feature = "gateway"))]
mod gateway;
mod html;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod judge;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod measure;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod offers;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod people;
mod report;

use std::path::Path;

use super::output::CommandOutput;
use crate::core::types::Fault;
use crate::edge::files;

#[cfg(all(target_os = "linux", feature = "gateway"))]
pub(in crate::app) use gateway::places;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub use gateway::run;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub(in crate::app) use people::{Person, coming_from};
pub use report::{AuditReport, Cell, Finding, Grade, ReportRow};

/// The exit code if there is a hole.
const HOLE: u8 = 1;

/// The report as a command's output; also written as HTML to a new file, if one is named.
/// Error: the file exists, or cannot be written.
pub fn output(report: &AuditReport, file: Option<&Path>) -> Result<CommandOutput, Fault> {
    let mut output = CommandOutput::out(printable_lines(&report.text()));
    if let Some(path) = file {
        files::create(path, html::page(report).as_bytes(), 0o644)?;
        output.err = format!("the report is in {}\n", path.display());
    }
    output.value = Some(report.json());
    output.code = if report.is_sound() { output.code } else { HOLE };
    Ok(output)
}

/// The text without control characters: names of programs, and what services say, come from
/// elsewhere.
fn printable_lines(text: &str) -> String {
    text.replace(|letter: char| letter.is_control() && letter != '\n', "\u{fffd}")
}
