//! Runs the nft program: by its absolute path, without an environment, its complaints caught and
//! explained. What it is told is left to `ruleset`, what it lists to `standing`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::core::types::Fault;

/// The nft program.
#[derive(Clone, Debug)]
pub(super) struct NftProgram(PathBuf);

impl NftProgram {
    /// By its path, which must be absolute: no search path is ever asked.
    pub(super) fn new(path: &Path) -> Result<NftProgram, Fault> {
        if path.is_absolute() {
            return Ok(NftProgram(path.to_owned()));
        }
        Err(Fault::new(
            format!("firewall.nft: {} is not an absolute path", path.display()),
            "give the whole path, as `command -v nft` prints it",
        ))
    }

    /// Carries out one transaction; all of it or, with a fault, nothing. Gives the pid under which
    /// the kernel announces it.
    pub(super) fn load(&self, text: &str) -> Result<u32, Fault> {
        let (pid, output) = self.run(&["-f", "-"], text)?;
        if output.status.success() { Ok(pid) } else { Err(self.explain(&output)) }
    }

    /// Our table as JSON, without the elements of its named sets; `None` if there is no such table.
    pub(super) fn list(&self, table: &str) -> Result<Option<String>, Fault> {
        let (_, output) = self.run(&["-j", "-t", "list", "table", "inet", table], "")?;
        if output.status.success() {
            return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
        }
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        if complaint.contains("No such file or directory") {
            Ok(None)
        } else {
            Err(self.explain(&output))
        }
    }

    /// The whole ruleset as JSON, without the elements of named sets.
    pub(super) fn list_all(&self) -> Result<String, Fault> {
        let (_, output) = self.run(&["-j", "-t", "list", "ruleset"], "")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.explain(&output))
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<(u32, Output), Fault> {
        let trouble = |error| self.cannot_run(&error);
        let mut child = Command::new(&self.0)
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(trouble)?;
        let pid = child.id();
        if let Some(mut pipe) = child.stdin.take() {
            // A program that died early has said why on its standard error: that is the message
            // worth showing.
            let _ = pipe.write_all(input.as_bytes());
        }
        Ok((pid, child.wait_with_output().map_err(trouble)?))
    }

    fn cannot_run(&self, error: &io::Error) -> Fault {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => {
                "install the nftables package, or set firewall.nft to where the program is"
            }
            io::ErrorKind::PermissionDenied => {
                "make the program executable for the user that runs toctocd"
            }
            _ => "run it by hand to see what is wrong",
        };
        Fault::new(format!("{}: {error}", self.0.display()), remedy)
    }

    fn explain(&self, output: &Output) -> Fault {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let first = complaint
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .unwrap_or("no reason given");
        let said: String = first.chars().filter(|c| !c.is_control()).take(200).collect();
        Fault::new(format!("{} refused the guard: {said}", self.0.display()), remedy(&complaint))
    }
}

fn remedy(complaint: &str) -> &'static str {
    const REMEDIES: [(&str, &str); 6] = [
        ("Operation not permitted", "run toctocd as root or with CAP_NET_ADMIN"),
        (
            "Protocol not supported",
            "this kernel has no nf_tables: load the module, or use a kernel that has it",
        ),
        (
            "Operation not supported",
            "this kernel lacks an expression of nf_tables: load nft_ct, nft_fib_inet and nft_limit",
        ),
        (
            "No such file or directory",
            "this kernel lacks an expression of nf_tables: load nft_ct, nft_fib_inet and nft_limit",
        ),
        (
            "syntax error",
            "this nft does not know what the guard needs: use 0.9.8 or later, and no keyword as firewall.table",
        ),
        (
            "Device or resource busy",
            "another program holds our table: see `nft list ruleset` and stop it, or choose another firewall.table",
        ),
    ];
    REMEDIES
        .iter()
        .find(|(words, _)| complaint.contains(words))
        .map_or("see `nft list ruleset` for what stands in the way", |(_, remedy)| remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> (tempfile::TempDir, NftProgram) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nft");
        // Written by another process: a descriptor of ours, open for writing in some other test's
        // fork, would make it "busy".
        let write = "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"";
        assert!(
            Command::new("/bin/sh")
                .args(["-c", write])
                .arg(&path)
                .arg(text)
                .status()
                .unwrap()
                .success()
        );
        let program = NftProgram::new(&path).unwrap();
        (folder, program)
    }

    #[test]
    fn a_relative_path_is_refused_and_a_missing_program_named() {
        assert!(NftProgram::new(Path::new("nft")).is_err());
        let fault = NftProgram::new(Path::new("/nowhere/nft")).unwrap().load("").unwrap_err();
        assert!(
            fault.what.starts_with("/nowhere/nft: ") && fault.remedy.contains("nftables package")
        );
    }

    #[test]
    fn the_program_sees_no_environment_but_a_plain_language() {
        let (_folder, program) = script("#!/bin/sh\n/usr/bin/tr '\\0' ' ' </proc/$$/environ >&2\n");
        let (_, output) = program.run(&[], "").unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "LC_ALL=C ");
    }

    #[test]
    fn a_complaint_is_quoted_without_control_characters_and_with_what_to_do() {
        let (_folder, program) = script(
            "#!/bin/sh\nprintf 'Error: Operation not permitted\\033[0m\\nmore\\n' >&2; exit 1\n",
        );
        let fault = program.load("").unwrap_err();
        assert!(
            fault.what.ends_with("refused the guard: Error: Operation not permitted[0m"),
            "{fault}"
        );
        assert_eq!(fault.remedy, "run toctocd as root or with CAP_NET_ADMIN");
    }

    #[test]
    fn a_program_that_does_not_read_is_still_heard() {
        let (_folder, program) =
            script("#!/bin/sh\nexec <&-\necho 'Error: syntax error' >&2; exit 1\n");
        assert!(program.load(&"x".repeat(1 << 20)).unwrap_err().what.contains("syntax error"));
    }
}
