//! A line on the terminal that says what a command waits for, once that takes a second.

use std::io::{IsTerminal, Write, stderr};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::edge::terminal::COLUMNS;

/// Time after which a person wonders.
const SECOND: Duration = Duration::from_secs(1);

/// Shows the words, with the seconds that have passed, until it is dropped. The line is gone
/// afterwards. Where standard error is no terminal, nothing is shown.
pub(in crate::app) struct Waiting {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    pub(in crate::app) fn begin(words: String) -> Self {
        if !stderr().is_terminal() {
            return Self { end: None, thread: None };
        }
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || {
            let begin = Instant::now();
            let mut shown = 0;
            while ended.recv_timeout(SECOND) == Err(RecvTimeoutError::Timeout) {
                let line = format!("{words}, {} s", begin.elapsed().as_secs());
                // A longer one could not be overwritten: the terminal breaks it.
                let line: String = line.chars().take(COLUMNS).collect();
                shown = line.chars().count();
                // Nobody is left to tell if the terminal is gone.
                let _ = write!(stderr(), "\r{line}");
            }
            if shown > 0 {
                let _ = write!(stderr(), "\r{:shown$}\r", "");
            }
        });
        Self { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It only prints.
            let _ = thread.join();
        }
    }
}
