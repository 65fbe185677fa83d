//! Runs commands: those of doors by `/bin/sh -c`, those of services without a shell. Nothing waits
//! for them; they are reaped when they end. The only text from a packet in a command is an address.
//! See `core::openings` for their times.
//!
//! All our descriptors are close-on-exec, so a command inherits only standard output and error
//! (knockd passed its packet socket on). Its standard input is empty. Environment and working
//! directory are the gateway's, as with knockd. The umask is the one that the gateway was *started*
//! with, not the one for its own files.
//!
//! A command with a stop command to follow is killed when the gateway dies: otherwise it could open
//! a door after the next start has shut it. Processes that it has started go on.

use std::ffi::{CStr, CString};
use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::sys::{self, ProgramSpec};
use crate::core::openings::{CommandEnd, CommandLine, Job};

const SHELL: &CStr = c"/bin/sh";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    pub id: u64,
    pub how: CommandEnd,
}

/// The commands that are running. See `core::openings` for their limit.
#[derive(Debug, Default)]
pub struct Runner {
    children: Vec<(u64, Pid)>,
    umask: Option<Mode>,
}

impl Runner {
    pub fn new() -> Self {
        Self::default()
    }

    /// No command runs yet. Commands get this umask, whatever ours is.
    pub fn with_umask(umask: Mode) -> Self {
        Self { umask: Some(umask), ..Self::default() }
    }

    /// Starts a command and returns at once. Returns `Some` if it cannot be started.
    pub fn run(&mut self, job: &Job) -> Option<Finished> {
        match self.start(job) {
            Ok(pid) => {
                self.children.push((job.id, pid));
                None
            }
            Err(error) => Some(Finished { id: job.id, how: not_started(&error) }),
        }
    }

    fn start(&self, job: &Job) -> io::Result<Pid> {
        let argv = argv(&job.command)?;
        let name = argv.first().ok_or(Errno::ENOENT)?;
        let path = match job.command {
            CommandLine::Shell(_) => SHELL,
            CommandLine::Argv(_) => name,
        };
        sys::start_afresh(&ProgramSpec { path, argv: &argv, umask: self.umask, tied: job.tied })
    }

    /// Kills the process group of this opening's command; [`Runner::reap`] reports its end.
    pub fn kill(&mut self, id: u64) {
        // Not reaped yet, so the pid still belongs to it.
        for (_, child) in self.children.iter().filter(|(other, _)| *other == id) {
            // The group of a command that has just ended may be gone.
            let _ = killpg(*child, Signal::SIGKILL);
        }
    }

    pub fn running(&self) -> usize {
        self.children.len()
    }

    /// The commands that have ended since the last call. Call it after each SIGCHLD. Never blocks.
    pub fn reap(&mut self) -> Vec<Finished> {
        let mut finished = Vec::new();
        self.children.retain(|(id, child)| {
            let Some(how) = ending(waitpid(*child, Some(WaitPidFlag::WNOHANG))) else {
                return true;
            };
            finished.push(Finished { id: *id, how });
            false
        });
        finished
    }
}

/// The arguments for execve(2), the name first.
fn argv(command: &CommandLine) -> io::Result<Vec<CString>> {
    let texts: Vec<&str> = match command {
        // COMPAT: system(3) names the shell `sh`; scripts may look.
        CommandLine::Shell(text) => vec!["sh", "-c", text],
        CommandLine::Argv(argv) => argv.iter().map(String::as_str).collect(),
    };
    // No text comes from a packet, and text from a file cannot contain NUL.
    texts.into_iter().map(|text| CString::new(text).map_err(io::Error::from)).collect()
}

/// A lack of resources may pass, so it is worth a retry; a missing program is not.
fn not_started(error: &io::Error) -> CommandEnd {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) => CommandEnd::NotNow,
        _ => CommandEnd::Killed,
    }
}

/// `None` while it runs.
fn ending(status: nix::Result<WaitStatus>) -> Option<CommandEnd> {
    match status {
        Ok(WaitStatus::StillAlive | WaitStatus::Stopped(..) | WaitStatus::Continued(_))
        | Err(Errno::EINTR) => None,
        Ok(WaitStatus::Exited(_, code)) => Some(CommandEnd::Exited(code)),
        // An error, too, means that it has ended: another process has reaped it.
        Ok(_) | Err(_) => Some(CommandEnd::Killed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};

    fn finish(runner: &mut Runner, wanted: usize) -> Vec<Finished> {
        let (mut all, begun) = (Vec::new(), Instant::now());
        while all.len() < wanted {
            assert!(begun.elapsed() < Duration::from_secs(20), "commands hang");
            all.extend(runner.reap());
            std::thread::yield_now();
        }
        all.sort_by_key(|finished| finished.id);
        all
    }

    fn run(texts: &[&str]) -> Vec<CommandEnd> {
        run_with(Runner::new(), texts)
    }

    fn run_with(mut runner: Runner, texts: &[&str]) -> Vec<CommandEnd> {
        for (id, text) in (0..).zip(texts) {
            assert_eq!(
                runner.run(&Job { id, command: CommandLine::Shell((*text).into()), tied: true }),
                None
            );
        }
        let finished = finish(&mut runner, texts.len());
        assert_eq!(runner.running(), 0);
        finished.into_iter().map(|finished| finished.how).collect()
    }

    #[test]
    fn commands_run_beside_each_other_and_their_endings_are_told() {
        // The first ends only after the second: it waits for a file that the second creates.
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        let wait = format!("while ! test -e {0}; do sleep 0.01; done; exit 3", file.display());
        let make = format!("touch {}", file.display());
        assert_eq!(
            run(&[&wait, &make, "kill -9 $$", ""]),
            [
                CommandEnd::Exited(3),
                CommandEnd::Exited(0),
                CommandEnd::Killed,
                CommandEnd::Exited(0)
            ]
        );
    }

    #[test]
    fn a_command_inherits_none_of_our_descriptors() {
        let (ours, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let fd = ours.as_raw_fd();
        assert_eq!(run(&[&format!("! test -e /proc/self/fd/{fd}")]), [CommandEnd::Exited(0)]);
    }

    #[test]
    fn a_command_has_a_process_group_of_its_own() {
        assert_eq!(
            run(&["test \"$(ps -o pgid= -p $$ | tr -d ' ')\" = $$"]),
            [CommandEnd::Exited(0)]
        );
    }

    #[test]
    fn a_command_has_the_umask_that_is_meant_for_it_and_ours_stays() {
        let ours = || std::fs::read_to_string("/proc/self/status").unwrap();
        let line =
            |text: &str| text.lines().find(|line| line.starts_with("Umask")).map(str::to_owned);
        let before = line(&ours());
        let runner = Runner::with_umask(Mode::from_bits_truncate(0o135));
        assert_eq!(run_with(runner, &["test \"$(umask)\" = 0135"]), [CommandEnd::Exited(0)]);
        assert_eq!(line(&ours()), before);
    }

    #[test]
    fn a_program_gets_its_arguments_as_they_are_and_no_shell_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x").display().to_string();
        let argv =
            ["/bin/sh", "-c", "printf '<%s>' \"$@\" >$0", &file, "a  b", "$(touch y)", ";", ""];
        let command = CommandLine::Argv(argv.map(str::to_owned).to_vec());
        let mut runner = Runner::new();
        assert_eq!(runner.run(&Job { id: 1, command, tied: true }), None);
        assert_eq!(finish(&mut runner, 1), [Finished { id: 1, how: CommandEnd::Exited(0) }]);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "<a  b><$(touch y)><;><>");
        let absent = CommandLine::Argv(vec!["/no/such/program".to_owned()]);
        let how = CommandEnd::Killed;
        assert_eq!(
            runner.run(&Job { id: 2, command: absent, tied: true }),
            Some(Finished { id: 2, how })
        );
    }

    #[test]
    fn a_script_that_names_no_interpreter_is_not_given_to_a_shell_behind_the_admins_back() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("x");
        std::fs::write(&script, "exit 0\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let command = CommandLine::Argv(vec![script.display().to_string()]);
        let how = CommandEnd::Killed;
        assert_eq!(
            Runner::new().run(&Job { id: 1, command, tied: false }),
            Some(Finished { id: 1, how })
        );
    }

    #[test]
    fn a_command_that_is_killed_takes_what_it_has_started_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        let text = format!("sleep 60 & echo $! >{0}.new; mv {0}.new {0}; wait", file.display());
        let mut runner = Runner::new();
        for (id, command) in
            [(1, CommandLine::Shell(text)), (2, CommandLine::Shell("sleep 60".into()))]
        {
            assert_eq!(runner.run(&Job { id, command, tied: true }), None);
        }
        let begun = Instant::now();
        while !file.exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it hangs");
            std::thread::yield_now();
        }
        runner.kill(1);
        assert_eq!(finish(&mut runner, 1), [Finished { id: 1, how: CommandEnd::Killed }]);
        let sleeps = format!("/proc/{}/stat", std::fs::read_to_string(file).unwrap().trim());
        // The process that inherited it may take a moment to reap it.
        let lives = || std::fs::read_to_string(&sleeps).is_ok_and(|stat| !stat.contains(") Z"));
        while lives() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it lives on");
            std::thread::yield_now();
        }
        assert_eq!(runner.running(), 1, "the other one runs");
        runner.kill(2);
        finish(&mut runner, 1);
    }

    #[test]
    fn only_what_may_change_by_itself_is_tried_again() {
        let how = |errno: Errno| not_started(&errno.into());
        assert_eq!(
            [Errno::EAGAIN, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE].map(how),
            [CommandEnd::NotNow; 4]
        );
        assert_eq!(
            [Errno::ENOENT, Errno::EACCES, Errno::ENOEXEC, Errno::E2BIG].map(how),
            [CommandEnd::Killed; 4]
        );
    }

    #[test]
    fn a_command_reads_nothing_from_our_standard_input() {
        let (ours, _writer) = nix::unistd::pipe().unwrap();
        nix::unistd::dup2_stdin(&ours).unwrap();
        assert_eq!(
            run(&["test \"$(readlink /proc/$$/fd/0)\" = /dev/null"]),
            [CommandEnd::Exited(0)]
        );
    }

    #[test]
    fn a_command_ends_when_nobody_reads_what_it_writes_although_we_do_not() {
        // Bit 12 is SIGPIPE, which this program ignores, as every Rust program does.
        let ignored = |text: &str| {
            let line =
                text.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
            u64::from_str_radix(line.trim(), 16).unwrap() & 1 << 12 != 0
        };
        assert!(ignored(&std::fs::read_to_string("/proc/self/status").unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        assert_eq!(
            run(&[&format!("cat /proc/self/status >{}", file.display())]),
            [CommandEnd::Exited(0)]
        );
        assert!(!ignored(&std::fs::read_to_string(file).unwrap()));
    }

    #[test]
    fn a_command_can_be_ended_by_the_signals_that_we_block() {
        nix::sys::signal::SigSet::from_iter([nix::sys::signal::Signal::SIGTERM])
            .thread_block()
            .unwrap();
        assert_eq!(run(&["kill -TERM $$; exit 1"]), [CommandEnd::Killed]);
        let ours = nix::sys::signal::SigSet::thread_get_mask().unwrap();
        assert!(
            ours.contains(Signal::SIGTERM) && !ours.contains(Signal::SIGINT),
            "and ours are as they were"
        );
    }
}
