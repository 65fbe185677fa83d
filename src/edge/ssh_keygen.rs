//! Signatures by OpenSSH's `ssh-keygen`, for FIDO keys that no agent holds: it finds the
//! authenticator, and asks the user for touch and PIN.

use std::env;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::terminal;

/// Signs `message` in `namespace` with the key file, and returns the armor. The user sees what
/// ssh-keygen says. The error is the reason.
pub fn sign(file: &Path, namespace: &str, message: &[u8]) -> Result<Vec<u8>, String> {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-Y", "sign", "-n", namespace, "-f"]).arg(file);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    // Its standard input is the message. Unless told so, it would then not ask on the terminal.
    if terminal::exists() && env::var_os("SSH_ASKPASS_REQUIRE").is_none() {
        command.env("SSH_ASKPASS_REQUIRE", "never");
    }
    let mut child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => "ssh-keygen is not installed".to_owned(),
        _ => format!("ssh-keygen cannot be started: {error}"),
    })?;
    if let Some(mut input) = child.stdin.take() {
        // If it has ended already, its exit status says so.
        let _ = input.write_all(message);
    }
    let output = child.wait_with_output().map_err(|error| format!("ssh-keygen: {error}"))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(format!("ssh-keygen did not sign ({})", output.status)),
    }
}
