//! The daemon's side of the runner: starting it, ordering, and starting it again if it ends.
//! Running commands is left to the runner.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::{io, mem};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::runner::ROLE;
use crate::edge::classic_log::Sinks;
use crate::edge::runner_pipe::{FromRunner, Received, RunRequest, RunnerPipe, ToRunner, pair};

/// The runner, as long as it lives.
pub(super) struct RunnerHandle {
    process: Option<(Child, RunnerPipe)>,
    /// Openings under way.
    live: usize,
}

impl RunnerHandle {
    /// Starts the runner.
    pub(super) fn start(sinks: &Sinks) -> io::Result<Self> {
        let mut commands = Self { process: Some(spawn()?), live: 0 };
        commands.log_to(sinks);
        Ok(commands)
    }

    /// Where its lines go from now on.
    pub(super) fn log_to(&mut self, sinks: &Sinks) {
        if let Some((_, pipe)) = &mut self.process {
            pipe.send(&ToRunner::Log(sinks.clone()));
        }
    }

    /// Orders one opening; whether the order was taken.
    pub(super) fn open(&mut self, order: RunRequest) -> bool {
        let taken =
            self.process.as_mut().is_some_and(|(_, pipe)| pipe.send(&ToRunner::Open(order)));
        self.live += usize::from(taken);
        taken
    }

    /// What to poll.
    pub(super) fn interest(&self) -> Option<PollFd<'_>> {
        self.process.as_ref().map(|(_, pipe)| {
            let writes = if pipe.waiting() > 0 { PollFlags::POLLOUT } else { PollFlags::empty() };
            PollFd::new(pipe.as_fd(), PollFlags::POLLIN | writes)
        })
    }

    /// Takes what the runner has to tell. One that has ended is replaced: its journal says what is
    /// still to be done.
    pub(super) fn hear(&mut self, sinks: &Sinks) {
        let Some((_, pipe)) = &mut self.process else { return };
        pipe.flush();
        loop {
            match pipe.receive() {
                Received::Message(FromRunner::Over) => self.live = self.live.saturating_sub(1),
                Received::Nothing => return,
                Received::Closed => break,
            }
        }
        if let Some((mut process, _)) = mem::take(&mut self.process) {
            let _ = process.wait();
        }
        self.live = 0;
        self.process = spawn().ok();
        self.log_to(sinks);
    }

    /// Waits until one opening is over, if any is under way.
    pub(super) fn wait_for_one(&mut self) {
        let Some((_, pipe)) = &mut self.process else { return };
        let before = self.live;
        while self.live > 0 && self.live == before {
            pipe.flush();
            match pipe.receive() {
                Received::Message(FromRunner::Over) => self.live -= 1,
                Received::Nothing => {
                    // An interrupted wait is only a shorter one.
                    let _ = poll(
                        &mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)],
                        PollTimeout::NONE,
                    );
                }
                Received::Closed => return,
            }
        }
    }
}

fn spawn() -> io::Result<(Child, RunnerPipe)> {
    let (ours, theirs) = pair()?;
    // Environment, working directory, standard output and error are ours: commands inherit them.
    let process = Command::new("/proc/self/exe")
        .arg0("knockd: runner")
        .arg(ROLE)
        .stdin(Stdio::from(theirs))
        .spawn()?;
    Ok((process, ours))
}
