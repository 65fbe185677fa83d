//! The gatekeeper's log: one event per line, control characters escaped, written by a thread.
//! Callers decide what to log; unauthenticated packets never cause one line each.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

use super::classic_log::local;
pub use super::classic_log::stamp as date_time;
use super::worker;
use crate::core::types::Wall;
pub use event::{EventRecord, LogEvent};

mod event;

/// The longest line, bytes; longer lines are cut.
const LONGEST: usize = 1024;
const QUEUE: usize = 1024;

/// The log. Lines wait in a queue for a thread that writes them: a full disk or an unread pipe
/// loses lines but never delays a packet.
pub struct Log {
    stamp: Stamp,
    shared: Arc<Shared>,
    sink: Option<Box<dyn Sink>>,
}

/// The time at the beginning of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stamp {
    /// journald adds its own.
    None,
    /// For somebody who watches.
    TimeOfDay,
    /// For a file, which is read later.
    DateTime,
}

trait Sink: Write + AsFd + Send {}
impl<T: Write + AsFd + Send> Sink for T {}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signals a new line, or the end of writing the last one.
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    /// The number of lines that found no room since the last of `lines`.
    lost: u64,
    /// True while a line is out of the queue but not written yet.
    is_writing: bool,
}

impl Log {
    pub fn stderr() -> Log {
        let stderr = io::stderr();
        let journal = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let stamp = match stderr.is_terminal() {
            true => Stamp::TimeOfDay,
            false if is_stream(stderr.as_fd(), &journal) => Stamp::None,
            false => Stamp::DateTime,
        };
        Log { stamp, ..Log::to(stderr) }
    }

    /// Logs to `sink` without the time. The thread starts with the first line.
    pub fn to(sink: impl Write + AsFd + Send + 'static) -> Log {
        Log { stamp: Stamp::None, shared: Arc::default(), sink: Some(Box::new(sink)) }
    }

    /// Queues one event. Never waits.
    pub fn event(&mut self, now: Wall, event: &LogEvent) {
        self.line(now, &event.line());
    }

    fn line(&mut self, now: Wall, text: &str) {
        let text = escaped(text);
        let line = match self.stamp {
            Stamp::None => format!("{text}\n"),
            Stamp::TimeOfDay => format!("{} {text}\n", clock_time(now)),
            Stamp::DateTime => format!("{} {text}\n", date_time(now)),
        };
        if let Some(mut sink) = self.sink.take() {
            let shared = Arc::clone(&self.shared);
            // Without a thread nothing is logged. The gateway serves all the same.
            let _ = worker::spawn("log", move || shared.write_all_to(&mut *sink));
        }
        self.shared.lock().push(line);
        self.shared.changed.notify_all();
    }

    /// Waits until all lines are written, at most `patience`. For the end of the process.
    pub fn flush(&mut self, patience: Duration) {
        let queue = self.shared.lock();
        let _ = self.shared.changed.wait_timeout_while(queue, patience, |queue| !queue.is_done());
    }
}

/// True if `stream` has this device and inode, as systemd names the stream to the journal.
fn is_stream(stream: BorrowedFd<'_>, named: &str) -> bool {
    match fstat(stream) {
        Ok(found) => named == format!("{}:{}", found.st_dev, found.st_ino),
        Err(_) => false,
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all_to(&self, sink: &mut dyn Sink) {
        loop {
            let line = self.next_line();
            // A line that cannot be written is lost, as on a full disk.
            while let Err(error) = sink.write_all(line.as_bytes()) {
                if error.kind() != io::ErrorKind::WouldBlock {
                    break;
                }
                // Another process that shares the file has made it non-blocking.
                let _ =
                    poll(&mut [PollFd::new(sink.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
        }
    }

    fn next_line(&self) -> String {
        let mut queue = self.lock();
        queue.is_writing = false;
        loop {
            if let Some(line) = queue.pop() {
                queue.is_writing = true;
                return line;
            }
            self.changed.notify_all();
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Queue {
    fn push(&mut self, line: String) {
        if self.lines.len() >= QUEUE {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        let loss = self.loss();
        self.lines.extend(loss);
        self.lines.push_back(line);
    }

    fn pop(&mut self) -> Option<String> {
        match self.lines.pop_front() {
            None => self.loss(),
            line => line,
        }
    }

    /// A line with the number of lines lost since the last such line.
    fn loss(&mut self) -> Option<String> {
        match std::mem::take(&mut self.lost) {
            0 => None,
            lost => Some(format!("{lost} lines were lost: nobody read the log\n")),
        }
    }

    fn is_done(&self) -> bool {
        self.lines.is_empty() && self.lost == 0 && !self.is_writing
    }
}

/// Local time of day, `14:03:20`.
pub fn clock_time(at: Wall) -> String {
    local(at).strftime("%H:%M:%S").to_string()
}

/// Local time with date and zone, for programs: `2026-11-28T14:03:20+01:00`.
pub fn zoned_time(at: Wall) -> String {
    local(at).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// The text as one line: characters that could forge a second line or move a cursor become
/// `\u{..}`.
fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if line.len() >= LONGEST {
            line.push_str("...");
            break;
        }
        match c {
            // Indents the lines that follow.
            '\n' => {
                line.push_str("; ");
                while chars.next_if_eq(&' ').is_some() {}
            }
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => line.extend(c.escape_unicode()),
            c if c.is_control() => line.extend(c.escape_unicode()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, PipeWriter, pipe};

    use super::*;

    /// A pipe that is full.
    fn full_pipe() -> (PipeReader, PipeWriter, usize) {
        let (reader, mut writer) = pipe().unwrap();
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
        let mut filled = 0;
        while let Ok(written) = writer.write(&[b'.'; 4096]) {
            filled += written;
        }
        (reader, writer, filled)
    }

    #[test]
    fn nobody_waits_for_a_full_pipe_and_what_was_lost_is_counted_in_its_place() {
        let (reader, writer, filled) = full_pipe();
        let mut log = Log::to(writer);
        let all = 3 * QUEUE;
        for n in 0..all {
            log.line(Wall(0), &format!("{n}"));
        }
        log.flush(Duration::ZERO);
        let mut reader = BufReader::new(reader);
        io::copy(&mut io::Read::take(&mut reader, filled as u64), &mut io::sink()).unwrap();
        let mut read = 0;
        let mut lost = 0;
        let mut lines = reader.lines().map(Result::unwrap);
        while read + lost < all {
            let line = lines.next().unwrap();
            match line.split_once(" lines were lost") {
                Some((number, _)) => lost += number.parse::<usize>().unwrap(),
                None => {
                    assert_eq!(line, (read + lost).to_string(), "in their order");
                    read += 1;
                }
            }
        }
        // A line may be on its way, and some may be lost before the thread starts.
        assert!((QUEUE..=QUEUE + 2).contains(&read), "{read}");
    }

    #[test]
    fn the_journal_is_known_by_its_device_and_inode() {
        let (_reader, writer) = pipe().unwrap();
        let found = fstat(&writer).unwrap();
        let name = format!("{}:{}", found.st_dev, found.st_ino);
        assert!(is_stream(writer.as_fd(), &name));
        assert!(!is_stream(writer.as_fd(), "") && !is_stream(io::stdin().as_fd(), &name));
    }

    #[test]
    fn a_line_for_a_file_begins_with_date_and_time() {
        let (reader, writer) = pipe().unwrap();
        let mut log = Log { stamp: Stamp::DateTime, ..Log::to(writer) };
        log.line(Wall(0), "ready");
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        assert_eq!(line, format!("{} ready\n", date_time(Wall(0))));
    }

    #[test]
    fn a_line_after_a_loss_comes_after_the_word_of_the_loss() {
        let mut queue = Queue::default();
        for n in 0..QUEUE + 2 {
            queue.push(n.to_string());
        }
        assert_eq!(queue.pop().as_deref(), Some("0"));
        queue.push("next".to_owned());
        let all: Vec<String> = std::iter::from_fn(|| queue.pop()).collect();
        let end = [&format!("{}", QUEUE - 1), "2 lines were lost: nobody read the log\n", "next"];
        assert_eq!(all[all.len() - 3..], end);
        assert!(queue.is_done());
    }

    #[test]
    fn the_end_waits_for_lines_that_somebody_reads() {
        let (reader, writer) = pipe().unwrap();
        let mut log = Log::to(writer);
        log.flush(Duration::from_secs(10));
        log.line(Wall(0), "the last words");
        log.flush(Duration::from_secs(10));
        assert!(log.shared.lock().is_done());
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        assert_eq!(line, "the last words\n");
    }

    #[test]
    fn a_line_stays_one_line_whatever_is_in_it() {
        assert_eq!(escaped("door: a\r\x1b[2Jb\u{202e}"), "door: a\\u{d}\\u{1b}[2Jb\\u{202e}");
        assert_eq!(escaped("what\n  remedy"), "what; remedy");
        assert!(escaped(&"x".repeat(5000)).len() < 1100);
    }
}
