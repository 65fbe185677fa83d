//! Threads beside a poll loop for work that may block: files, programs, name services. The loop
//! starts jobs, polls one descriptor, and takes the results.
//!
//! A job cannot be cancelled. Its lane stays busy until it ends, and the process does not wait for
//! it at its own end. A caller that needs a deadline keeps it and reports a late job.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::core::types::Fault;

/// The lanes. Each runs one job at a time, in parallel with the others.
pub struct Worker<T> {
    running: BTreeMap<&'static str, JoinHandle<()>>,
    /// Sends the lane and the return value of each finished job.
    sender: Sender<(&'static str, T)>,
    receiver: Receiver<(&'static str, T)>,
    ready: Arc<EventFd>,
}

impl<T: Send + 'static> Worker<T> {
    pub fn new() -> Result<Worker<T>, Fault> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let ready = EventFd::from_flags(flags).map_err(|error| {
            Fault::new(format!("no descriptor for jobs: {error}"), "raise the limit of open files")
        })?;
        let (sender, receiver) = channel();
        Ok(Worker { running: BTreeMap::new(), sender, receiver, ready: Arc::new(ready) })
    }

    /// Starts `job` in a thread named `lane`, with our current privileges; its return value goes to
    /// the loop. Fails if that lane is busy.
    pub fn start(
        &mut self, lane: &'static str, job: Box<dyn FnOnce() -> T + Send>,
    ) -> Result<(), Fault> {
        // A thread that ended without a result has panicked: its lane is free.
        if self.running.get(lane).is_some_and(|thread| !thread.is_finished()) {
            return Err(Fault::new(
                format!("{lane}: an earlier job still runs"),
                "see what it waits for: a disk, a name server, the nft program",
            ));
        }
        let sender = self.sender.clone();
        let ready = Arc::clone(&self.ready);
        let thread = spawn(lane, move || {
            let value = job();
            // The receiver is gone only while the process ends.
            if sender.send((lane, value)).is_ok() {
                let _ = ready.write(1);
            }
        });
        let thread = thread.map_err(|error| {
            Fault::new(format!("{lane}: no thread: {error}"), "raise the limit of processes")
        })?;
        self.running.insert(lane, thread);
        Ok(())
    }

    /// The result of a finished job, if any. Never waits. Call it until it returns `None`.
    pub fn finished(&mut self) -> Option<T> {
        // Clear before looking: a result that arrives in between makes it readable again.
        let _ = self.ready.read();
        let (lane, value) = self.receiver.try_recv().ok()?;
        self.running.remove(lane);
        // There may be more results, so stay readable until a call returns `None`.
        let _ = self.ready.write(1);
        Some(value)
    }
}

/// Readable while a result waits.
impl<T> AsFd for Worker<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

/// Starts a thread with all signals blocked: the poll loop handles them.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let thread = Builder::new().name(name.to_owned()).spawn(work);
    before.thread_set_mask()?;
    thread
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::signal::Signal;

    use super::*;

    fn is_ready(worker: &Worker<u32>, millis: u16) -> bool {
        let mut fds = [PollFd::new(worker.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(millis)).unwrap() > 0
    }

    fn next(worker: &mut Worker<u32>) -> u32 {
        loop {
            assert!(is_ready(worker, 10_000), "no job ends");
            if let Some(value) = worker.finished() {
                return value;
            }
        }
    }

    fn all_end(worker: &Worker<u32>) {
        while !worker.running.values().all(JoinHandle::is_finished) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_lane_that_hangs_blocks_no_other_lane_and_takes_no_second_job() {
        let mut worker = Worker::new().unwrap();
        let (release, hung) = mpsc::channel::<u32>();
        worker.start("files", Box::new(move || hung.recv().unwrap())).unwrap();
        worker.start("guard", Box::new(|| 2)).unwrap();
        assert_eq!(next(&mut worker), 2);
        let fault = worker.start("files", Box::new(|| 3)).unwrap_err();
        assert!(fault.what.contains("files: an earlier job still runs"), "{fault}");
        worker.start("guard", Box::new(|| 4)).unwrap();
        assert_eq!(next(&mut worker), 4);
        assert!(worker.finished().is_none() && !is_ready(&worker, 0));
        release.send(1).unwrap();
        assert_eq!(next(&mut worker), 1, "late, and not lost");
        worker.start("files", Box::new(|| 5)).unwrap();
        assert_eq!(next(&mut worker), 5);
    }

    #[test]
    fn the_descriptor_is_readable_until_the_last_result_was_taken() {
        let mut worker = Worker::new().unwrap();
        let lanes = ["a", "b", "c"];
        for lane in lanes {
            worker.start(lane, Box::new(|| 1)).unwrap();
        }
        all_end(&worker);
        let mut sum = 0;
        for _ in lanes {
            sum += next(&mut worker);
        }
        assert_eq!((sum, worker.finished()), (3, None));
        assert!(!is_ready(&worker, 0));
    }

    #[test]
    fn a_job_that_panics_frees_its_lane() {
        let mut worker = Worker::<u32>::new().unwrap();
        worker.start("files", Box::new(|| panic!("a bug"))).unwrap();
        all_end(&worker);
        worker.start("files", Box::new(|| 1)).unwrap();
        assert_eq!(next(&mut worker), 1);
    }

    #[test]
    fn a_job_takes_no_signal_and_ours_are_as_they_were() {
        let mut worker = Worker::new().unwrap();
        let before = SigSet::thread_get_mask().unwrap();
        let blocked = || SigSet::thread_get_mask().unwrap().contains(Signal::SIGTERM);
        worker.start("files", Box::new(move || u32::from(blocked()))).unwrap();
        assert_eq!(next(&mut worker), 1);
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
