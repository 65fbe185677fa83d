//! Runs the nft program by its absolute path, without an environment, with a time limit.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::watch::Authors;
use crate::core::types::Fault;

/// The time limit; the program is killed after it.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(super) struct NftProgram {
    path: PathBuf,
    /// The nft processes whose changes count as ours.
    authors: Authors,
}

impl NftProgram {
    /// Takes an absolute path only: no search path is used.
    pub(super) fn new(path: &Path) -> Result<NftProgram, Fault> {
        if path.is_absolute() {
            return Ok(NftProgram { path: path.to_owned(), authors: Authors::default() });
        }
        let what = format!("firewall.nft: {} is not an absolute path", path.display());
        Err(Fault::new(what, "give the whole path, as `command -v nft` prints it"))
    }

    /// Registers its processes in `authors`, so that watches know their changes as ours.
    pub(super) fn with(self, authors: &Authors) -> NftProgram {
        NftProgram { authors: authors.clone(), ..self }
    }

    /// Runs one transaction; a fault means that nothing has changed.
    pub(super) fn load(&self, text: &str) -> Result<(), Fault> {
        let output = self.run(&["-f", "-"], text)?;
        if output.status.success() { Ok(()) } else { Err(self.explain(&output)) }
    }

    /// The whole ruleset as JSON, without the elements of named sets. The listing of one table
    /// contains them, whatever one asks for (nft 1.0.6).
    pub(super) fn list_all(&self) -> Result<String, Fault> {
        self.listing(&["-j", "-t", "list", "ruleset"])
    }

    /// What the program prints with these arguments.
    pub(super) fn listing(&self, arguments: &[&str]) -> Result<String, Fault> {
        let output = self.run(arguments, "")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.explain(&output))
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<Output, Fault> {
        self.run_for(PATIENCE, arguments, input).map_err(|error| self.cannot_run(&error))
    }

    fn run_for(&self, patience: Duration, arguments: &[&str], input: &str) -> io::Result<Output> {
        let mut child = Command::new(&self.path)
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Register before the program reads its input: the kernel announces its changes under this
        // pid. A listing announces nothing, and must not keep a pid that another process may get
        // next.
        if !input.is_empty() {
            self.authors.add(child.id());
        }
        let output = exchange(&mut child, input.as_bytes(), Instant::now() + patience);
        if output.is_err() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.authors.ended(child.id());
        output
    }

    fn cannot_run(&self, error: &io::Error) -> Fault {
        let remedy = match error.kind() {
            ErrorKind::NotFound => {
                "install the nftables package, or set firewall.nft to where the program is"
            }
            ErrorKind::PermissionDenied => {
                "make the program executable for the user that runs toctocd"
            }
            _ => "run it by hand to see what is wrong",
        };
        Fault::new(format!("{}: {error}", self.path.display()), remedy)
    }

    fn explain(&self, output: &Output) -> Fault {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let mut lines = complaint.lines().map(str::trim);
        let first = lines.find(|line| !line.is_empty()).unwrap_or("no reason given");
        let said: String = first.chars().filter(|c| !c.is_control()).take(200).collect();
        let what = format!("{} refused the guard: {said}", self.path.display());
        Fault::new(what, remedy(&complaint))
    }
}

/// Writes `input` to the program and collects its output until it ends.
fn exchange(child: &mut Child, mut input: &[u8], deadline: Instant) -> io::Result<Output> {
    let mut stdin = pipe(child.stdin.take())?;
    let mut stdout = pipe(child.stdout.take())?;
    let mut stderr = pipe(child.stderr.take())?;
    let mut said = Vec::new();
    let mut complaint = Vec::new();
    while stdout.is_some() || stderr.is_some() {
        wait(&stdin, [&stdout, &stderr], deadline)?;
        feed(&mut stdin, &mut input);
        gather(&mut stdout, &mut said)?;
        gather(&mut stderr, &mut complaint)?;
    }
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Output { status, stdout: said, stderr: complaint });
        }
        left(deadline)?;
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn pipe(end: Option<impl Into<OwnedFd>>) -> io::Result<Option<File>> {
    let Some(end) = end else { return Ok(None) };
    let end = File::from(end.into());
    fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(Some(end))
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        let seconds = PATIENCE.as_secs();
        return Err(io::Error::other(format!("did not end within {seconds} s and was killed")));
    }
    Ok(left)
}

fn wait(stdin: &Option<File>, outputs: [&Option<File>; 2], deadline: Instant) -> io::Result<()> {
    let mut fds = Vec::new();
    fds.extend(stdin.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
    for output in outputs {
        fds.extend(output.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
    }
    let timeout = PollTimeout::try_from(left(deadline)?).unwrap_or(PollTimeout::MAX);
    // An interrupted wait is only shorter.
    let _ = poll(&mut fds, timeout);
    Ok(())
}

fn feed(stdin: &mut Option<File>, input: &mut &[u8]) {
    let Some(pipe) = stdin else { return };
    while !input.is_empty() {
        match pipe.write(input) {
            Ok(written) => *input = input.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // A program that died early has explained it on standard error.
            Err(_) => break,
        }
    }
    *stdin = None;
}

fn gather(output: &mut Option<File>, said: &mut Vec<u8>) -> io::Result<()> {
    let Some(pipe) = output else { return Ok(()) };
    match pipe.read_to_end(said) {
        Ok(_) => *output = None,
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn remedy(complaint: &str) -> &'static str {
    const LACKS_EXPRESSION: &str =
        "this kernel lacks an expression of nf_tables: load nft_ct, nft_fib_inet and nft_limit";
    const REMEDIES: [(&str, &str); 6] = [
        ("Operation not permitted", "run toctocd as root or with CAP_NET_ADMIN"),
        (
            "Protocol not supported",
            "this kernel has no nf_tables: load the module, or use a kernel that has it",
        ),
        ("Operation not supported", LACKS_EXPRESSION),
        ("No such file or directory", LACKS_EXPRESSION),
        (
            "syntax error",
            "this nft does not know what the guard needs: use 0.9.8 or later, and no keyword as \
             firewall.table",
        ),
        (
            "Device or resource busy",
            "another program holds our table: see `nft list ruleset` and stop it, or choose \
             another firewall.table",
        ),
    ];
    for (words, remedy) in REMEDIES {
        if complaint.contains(words) {
            return remedy;
        }
    }
    "see `nft list ruleset` for what stands in the way"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> (tempfile::TempDir, NftProgram) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nft");
        // Another process writes it: a descriptor of ours, open for writing in another test's fork,
        // would make it "busy".
        let write = "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"";
        let mut shell = Command::new("/bin/sh");
        assert!(shell.args(["-c", write]).arg(&path).arg(text).status().unwrap().success());
        let program = NftProgram::new(&path).unwrap();
        (folder, program)
    }

    #[test]
    fn a_relative_path_is_refused_and_a_missing_program_named() {
        assert!(NftProgram::new(Path::new("nft")).is_err());
        let fault = NftProgram::new(Path::new("/nowhere/nft")).unwrap().load("").unwrap_err();
        assert!(fault.what.starts_with("/nowhere/nft: "), "{fault}");
        assert!(fault.remedy.contains("nftables package"), "{fault}");
    }

    #[test]
    fn the_program_sees_no_environment_but_a_plain_language() {
        let (_folder, program) = script("#!/bin/sh\n/usr/bin/tr '\\0' ' ' </proc/$$/environ >&2\n");
        let output = program.run(&[], "").unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "LC_ALL=C ");
        assert!(program.authors.gone().is_empty(), "it had nothing to change");
    }

    #[test]
    fn a_complaint_is_quoted_without_control_characters_and_with_what_to_do() {
        let complain = "printf 'Error: Operation not permitted\\033[0m\\nmore\\n' >&2; exit 1";
        let (_folder, program) = script(&format!("#!/bin/sh\n{complain}\n"));
        let fault = program.load("").unwrap_err();
        let expected = "refused the guard: Error: Operation not permitted[0m";
        assert!(fault.what.ends_with(expected), "{fault}");
        assert_eq!(fault.remedy, "run toctocd as root or with CAP_NET_ADMIN");
    }

    #[test]
    fn a_program_that_does_not_read_is_still_heard() {
        let text = "#!/bin/sh\nexec <&-\necho 'Error: syntax error' >&2; exit 1\n";
        let (_folder, program) = script(text);
        assert!(program.load(&"x".repeat(1 << 20)).unwrap_err().what.contains("syntax error"));
    }

    #[test]
    fn much_input_and_much_output_at_once_do_not_block_each_other() {
        let (_folder, program) = script("#!/bin/sh\nexec /bin/cat\n");
        let text = "x".repeat(1 << 20);
        assert_eq!(program.run(&[], &text).unwrap().stdout, text.into_bytes());
    }

    #[test]
    fn a_program_that_never_ends_is_killed() {
        for text in ["#!/bin/sh\nexec sleep 600\n", "#!/bin/sh\nexec sleep 600 >&- 2>&-\n"] {
            let (_folder, program) = script(text);
            let patience = Duration::from_millis(20);
            let error = program.run_for(patience, &[], &"x".repeat(1 << 20)).unwrap_err();
            assert!(error.to_string().contains("was killed"), "{error}");
            assert_eq!(program.authors.gone().len(), 1);
        }
    }
}
