//! The daemon's side of the runner: starts it, sends it orders, and starts it again if it ends.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::poll::PollTimeout;

use super::runner::ROLE;
use crate::edge::classic_log::Sinks;
use crate::edge::event_loop::PollSet;
use crate::edge::runner_pipe::{RunRequest, RunnerPipe, ToRunner, pair};

pub(super) struct RunnerHandle {
    process: Option<RunnerProcess>,
    /// Openings that have not ended.
    live: usize,
}

struct RunnerProcess {
    child: Child,
    pipe: RunnerPipe,
}

impl RunnerHandle {
    pub(super) fn start(sinks: &Sinks) -> io::Result<Self> {
        let mut handle = Self { process: Some(RunnerProcess::spawn()?), live: 0 };
        handle.log_to(sinks);
        Ok(handle)
    }

    /// Sends the runner's log lines to `sinks` from now on.
    pub(super) fn log_to(&mut self, sinks: &Sinks) {
        if let Some(process) = &mut self.process {
            process.pipe.send(&ToRunner::Log(sinks.clone()));
        }
    }

    /// Orders one opening; true if the order was taken.
    pub(super) fn open(&mut self, order: RunRequest) -> bool {
        let Some(process) = &mut self.process else { return false };
        let is_taken = process.pipe.send(&ToRunner::Open(order));
        self.live += usize::from(is_taken);
        is_taken
    }

    pub(super) fn add_to<'a>(&'a self, set: &mut PollSet<'a>) {
        if let Some(process) = &self.process {
            set.read_and_write(process.pipe.as_fd(), process.pipe.waiting() > 0);
        }
    }

    /// Takes the runner's messages. A runner that has ended is replaced: its journal has what is
    /// still to be done.
    pub(super) fn receive(&mut self, sinks: &Sinks) {
        let Some(process) = &mut self.process else { return };
        process.pipe.flush();
        loop {
            match process.pipe.receive() {
                Ok(Some(())) => self.live = self.live.saturating_sub(1),
                Ok(None) => return,
                Err(_) => break,
            }
        }
        let _ = process.child.wait();
        self.live = 0;
        self.process = RunnerProcess::spawn().ok();
        self.log_to(sinks);
    }

    /// Waits until one opening has ended, if there is one.
    pub(super) fn wait_for_one(&mut self) {
        let Some(RunnerProcess { pipe, .. }) = &mut self.process else { return };
        let before = self.live;
        while self.live > 0 && self.live == before {
            pipe.flush();
            match pipe.receive() {
                Ok(Some(())) => self.live -= 1,
                Ok(None) => {
                    let mut set = PollSet::default();
                    set.read(pipe.as_fd());
                    let _ = set.wait(PollTimeout::NONE);
                }
                Err(_) => return,
            }
        }
    }
}

impl RunnerProcess {
    fn spawn() -> io::Result<Self> {
        let (ours, theirs) = pair()?;
        // Environment, working directory, standard output and error are ours: commands inherit
        // them.
        let child = Command::new("/proc/self/exe")
            .arg0("knockd: runner")
            .arg(ROLE)
            .stdin(Stdio::from(theirs))
            .spawn()?;
        Ok(Self { child, pipe: ours })
    }
}
