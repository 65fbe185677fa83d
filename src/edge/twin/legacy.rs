//! The tables of iptables-legacy, which no netlink lists: by its own programs that save and restore
//! them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/bin"];

/// One table as its program saves it.
pub(super) struct LegacyTable {
    program: &'static str,
    name: String,
    /// `None`: its program is missing, or fails.
    text: Option<Vec<u8>>,
}

/// Those of this thread's network namespace. A table that is not there is not asked for: that would
/// make it.
pub(super) fn tables() -> Vec<LegacyTable> {
    let mut tables = Vec::new();
    for (names, program) in [
        ("ip_tables_names", "iptables"),
        ("ip6_tables_names", "ip6tables"),
        ("arp_tables_names", "arptables"),
    ] {
        let file = format!("/proc/thread-self/net/{names}");
        for name in fs::read_to_string(file).unwrap_or_default().lines() {
            let text = save(program, name);
            tables.push(LegacyTable { program, name: name.to_owned(), text });
        }
    }
    tables
}

fn save(program: &str, table: &str) -> Option<Vec<u8>> {
    let output = command(&format!("{program}-legacy-save"))?.args(["-t", table]).output().ok()?;
    if output.status.success() { Some(output.stdout) } else { None }
}

impl LegacyTable {
    /// Restores it in this thread's network namespace; otherwise says what is missing there.
    pub(super) fn restore(&self) -> Option<String> {
        let is_done = self.text.as_deref().is_some_and(|text| self.feed(text).unwrap_or(false));
        if is_done {
            return None;
        }
        Some(format!("the table {} of {}-legacy", self.name, self.program))
    }

    fn feed(&self, text: &[u8]) -> std::io::Result<bool> {
        let Some(mut command) = command(&format!("{}-legacy-restore", self.program)) else {
            return Ok(false);
        };
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text)?;
        }
        Ok(child.wait()?.success())
    }
}

/// The program by its absolute path and without an environment; `None` if it is not installed.
fn command(name: &str) -> Option<Command> {
    let paths = FOLDERS.map(|folder| Path::new(folder).join(name));
    let path: &PathBuf = paths.iter().find(|path| path.exists())?;
    let mut command = Command::new(path);
    command.env_clear().env("LC_ALL", "C").current_dir("/").stderr(Stdio::null());
    Some(command)
}
