//! Commands of doors, by `/bin/sh -c`, and of services, by no shell: started, never waited for, reaped when they have ended.
//! When which command runs is left to `core::leases`; nothing from the wire comes here but an address inside an argument.
//!
//! Every descriptor of ours is close-on-exec, so a command inherits standard output and error and nothing else: knockd
//! handed its packet socket down. It reads nothing. Environment and working directory are the gateway's, as with knockd,
//! and so is the umask that the gateway was *started* with: the one under which it writes its own files is no command's business.
//!
//! Where a stop command is to follow, a shell or program dies with us: one that went on alone could open a door after the next start has
//! shut it. What it had started itself, such as a script, goes on.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command as Process, ExitStatus, Stdio};

use nix::sys::stat::Mode;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access};

use super::sys;
use crate::core::leases::{Command, Ending, Job};

/// Whether a program of this path could be started.
pub fn is_program(path: &str) -> bool {
    access(path, AccessFlags::X_OK).is_ok()
}

/// A command that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The opening it belongs to.
    pub id: u64,
    /// How it ended.
    pub how: Ending,
}

/// The commands that run at present. As many as `core::leases` lets run.
#[derive(Debug, Default)]
pub struct Runner {
    children: Vec<(u64, Child)>,
    umask: Option<Mode>,
}

impl Runner {
    /// No command runs yet. They will have our umask.
    pub fn new() -> Self {
        Self::default()
    }

    /// No command runs yet. They will have this umask, whatever ours is.
    pub fn with_umask(umask: Mode) -> Self {
        Self { umask: Some(umask), ..Self::default() }
    }

    /// Starts a command and returns at once. One that cannot even be started has ended.
    pub fn run(&mut self, job: &Job) -> Option<Finished> {
        // In a process group of its own: what a terminal or a script sends to the gateway's group is not meant for it.
        let mut command = process(&job.command);
        command.process_group(0).stdin(Stdio::null());
        sys::start_afresh(&mut command, self.umask, job.tied);
        match command.spawn() {
            Ok(child) => {
                self.children.push((job.id, child));
                None
            }
            Err(error) => Some(Finished { id: job.id, how: not_started(&error) }),
        }
    }

    /// Kills the command of this opening and all of its process group; it is reaped as any other. What has left that group goes on.
    pub fn kill(&mut self, id: u64) {
        // Not reaped yet, so its number is nobody else's.
        for (_, child) in self.children.iter().filter(|(other, _)| *other == id) {
            let group = i32::try_from(child.id()).map(Pid::from_raw);
            // One that has just ended has no group any more.
            let _ = group.map(|group| killpg(group, Signal::SIGKILL));
        }
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.children.len()
    }

    /// Those that have ended since the last call. To be called after each SIGCHLD; never blocks.
    pub fn reap(&mut self) -> Vec<Finished> {
        let mut finished = Vec::new();
        self.children.retain_mut(|(id, child)| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                finished.push(Finished { id: *id, how: ending(status) });
                false
            }
            // Somebody else has reaped it. That it has ended is all that matters for what comes next.
            Err(_) => {
                finished.push(Finished { id: *id, how: Ending::Killed });
                false
            }
        });
        finished
    }
}

fn process(command: &Command) -> Process {
    match command {
        Command::Shell(text) => {
            // COMPAT: the shell's own name is `sh`, as with system(3); scripts that tell it from bash look.
            let mut shell = Process::new("/bin/sh");
            shell.arg0("sh").arg("-c").arg(text);
            shell
        }
        Command::Argv(argv) => {
            let mut argv = argv.iter();
            let mut program = Process::new(argv.next().map_or("", String::as_str));
            program.args(argv);
            program
        }
    }
}

/// What is missing only now may be there later; a program that is not there is not waited for.
fn not_started(error: &io::Error) -> Ending {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) => Ending::NotNow,
        _ => Ending::Killed,
    }
}

fn ending(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, _) => Ending::Killed,
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

    fn run(texts: &[&str]) -> Vec<Ending> {
        run_with(Runner::new(), texts)
    }

    fn run_with(mut runner: Runner, texts: &[&str]) -> Vec<Ending> {
        for (id, text) in (0..).zip(texts) {
            assert_eq!(runner.run(&Job { id, command: Command::Shell((*text).into()), tied: true }), None);
        }
        let finished = finish(&mut runner, texts.len());
        assert_eq!(runner.running(), 0);
        finished.into_iter().map(|finished| finished.how).collect()
    }

    #[test]
    fn commands_run_beside_each_other_and_their_endings_are_told() {
        // The first ends only after the second has: it waits for a file that the second makes.
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        let wait = format!("while ! test -e {0}; do sleep 0.01; done; exit 3", file.display());
        let make = format!("touch {}", file.display());
        assert_eq!(
            run(&[&wait, &make, "kill -9 $$", ""]),
            [Ending::Exited(3), Ending::Exited(0), Ending::Killed, Ending::Exited(0)]
        );
    }

    #[test]
    fn a_command_inherits_none_of_our_descriptors() {
        let (ours, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let fd = ours.as_raw_fd();
        assert_eq!(run(&[&format!("! test -e /proc/self/fd/{fd}")]), [Ending::Exited(0)]);
    }

    #[test]
    fn a_command_has_a_process_group_of_its_own() {
        assert_eq!(run(&["test \"$(ps -o pgid= -p $$ | tr -d ' ')\" = $$"]), [Ending::Exited(0)]);
    }

    #[test]
    fn a_command_has_the_umask_that_is_meant_for_it_and_ours_stays() {
        let ours = || std::fs::read_to_string("/proc/self/status").unwrap();
        let line = |text: &str| text.lines().find(|line| line.starts_with("Umask")).map(str::to_owned);
        let before = line(&ours());
        let runner = Runner::with_umask(Mode::from_bits_truncate(0o135));
        assert_eq!(run_with(runner, &["test \"$(umask)\" = 0135"]), [Ending::Exited(0)]);
        assert_eq!(line(&ours()), before);
    }

    #[test]
    fn a_program_gets_its_arguments_as_they_are_and_no_shell_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x").display().to_string();
        let argv = ["/bin/sh", "-c", "printf '<%s>' \"$@\" >$0", &file, "a  b", "$(touch y)", ";", ""];
        let command = Command::Argv(argv.map(str::to_owned).to_vec());
        let mut runner = Runner::new();
        assert_eq!(runner.run(&Job { id: 1, command, tied: true }), None);
        assert_eq!(finish(&mut runner, 1), [Finished { id: 1, how: Ending::Exited(0) }]);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "<a  b><$(touch y)><;><>");
        let absent = Command::Argv(vec!["/no/such/program".to_owned()]);
        let how = Ending::Killed;
        assert_eq!(runner.run(&Job { id: 2, command: absent, tied: true }), Some(Finished { id: 2, how }));
    }

    #[test]
    fn a_command_that_is_killed_takes_what_it_has_started_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        let text = format!("sleep 60 & echo $! >{0}.new; mv {0}.new {0}; wait", file.display());
        let mut runner = Runner::new();
        for (id, command) in [(1, Command::Shell(text)), (2, Command::Shell("sleep 60".into()))] {
            assert_eq!(runner.run(&Job { id, command, tied: true }), None);
        }
        let begun = Instant::now();
        while !file.exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it hangs");
            std::thread::yield_now();
        }
        runner.kill(1);
        assert_eq!(finish(&mut runner, 1), [Finished { id: 1, how: Ending::Killed }]);
        let sleeps = format!("/proc/{}/stat", std::fs::read_to_string(file).unwrap().trim());
        // Whoever has inherited it may take a moment to reap it.
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
        assert_eq!([Errno::EAGAIN, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE].map(how), [Ending::NotNow; 4]);
        assert_eq!([Errno::ENOENT, Errno::EACCES, Errno::ENOEXEC, Errno::E2BIG].map(how), [Ending::Killed; 4]);
    }

    #[test]
    fn a_command_reads_nothing_from_our_standard_input() {
        assert_eq!(run(&["test \"$(readlink /proc/$$/fd/0)\" = /dev/null"]), [Ending::Exited(0)]);
    }

    #[test]
    fn a_command_can_be_ended_by_the_signals_that_we_block() {
        nix::sys::signal::SigSet::from_iter([nix::sys::signal::Signal::SIGTERM]).thread_block().unwrap();
        assert_eq!(run(&["kill -TERM $$; exit 1"]), [Ending::Killed]);
    }
}
