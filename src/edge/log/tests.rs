//! The queue between the gatekeeper and the thread that writes.

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use super::outlet::Stamp;
use super::*;
use crate::config::{LogForm, LogTarget};

/// A log without the time.
fn log_to(sink: impl Write + AsFd + Send + 'static) -> Log {
    stamped(sink, Stamp::None)
}

fn stamped(sink: impl Write + AsFd + Send + 'static, stamp: Stamp) -> Log {
    let outlet = Outlet::Stream { sink: Box::new(sink), stamp, form: LogForm::Text };
    Log { outlet: Some(outlet), shared: Arc::default() }
}

fn event(text: &str) -> LogEvent {
    LogEvent::new(EventKind::Start, text)
}

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
    let mut log = log_to(writer);
    let all = 3 * QUEUE;
    for n in 0..all {
        log.event(Wall(0), event(&format!("{n}")));
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
fn a_line_for_a_file_begins_with_date_and_time() {
    let (reader, writer) = pipe().unwrap();
    let mut log = stamped(writer, Stamp::DateTime);
    log.event(Wall(0), event("ready"));
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    assert_eq!(line, format!("{} ready\n", date_time(Wall(0))));
}

/// The texts of what is in the queue.
fn texts(queue: &mut Queue) -> Vec<String> {
    let text = |entry| match entry {
        Entry::Event(_, event) => event.text,
        Entry::Open(..) => "open".to_owned(),
    };
    std::iter::from_fn(|| queue.pop().map(text)).collect()
}

#[test]
fn a_line_after_a_loss_comes_after_the_word_of_the_loss() {
    let mut queue = Queue::default();
    for n in 0..QUEUE + 2 {
        queue.push(Entry::Event(Wall(0), event(&n.to_string())));
    }
    queue.pop().unwrap();
    queue.push(Entry::Event(Wall(0), event("next")));
    let all = texts(&mut queue);
    let end = [&format!("{}", QUEUE - 1), "2 lines were lost: nobody read the log", "next"];
    assert_eq!(all[all.len() - 3..], end);
    assert!(queue.is_done());
}

#[test]
fn a_rotation_is_not_forgotten_although_nobody_reads_the_log() {
    let settings = LogSettings { to: LogTarget::Stderr, form: LogForm::Text };
    let mut queue = Queue::default();
    for n in 0..QUEUE {
        queue.push(Entry::Event(Wall(0), event(&n.to_string())));
    }
    queue.push(Entry::Open(Wall(0), settings));
    let all = texts(&mut queue);
    assert_eq!(all[all.len() - 2..], ["open", "1 lines were lost: nobody read the log"]);
}

#[test]
fn a_file_is_opened_again_under_its_name_and_a_place_that_is_no_more_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let settings =
        |path: &std::path::Path, form| LogSettings { to: LogTarget::File(path.to_owned()), form };
    let mut log = Log::open(&settings(&path, LogForm::Text)).unwrap();
    log.event(Wall(0), event("before"));
    log.flush(Duration::from_secs(10));
    std::fs::rename(&path, dir.path().join("log.1")).unwrap();
    log.event(Wall(0), event("into the old one"));
    log.reopen(Wall(0), settings(&path, LogForm::Json));
    log.event(Wall(0), event("after"));
    log.reopen(Wall(0), settings(&dir.path().join("none/log"), LogForm::Text));
    log.flush(Duration::from_secs(10));
    let old = std::fs::read_to_string(dir.path().join("log.1")).unwrap();
    assert!(old.ends_with(" into the old one\n") && old.lines().count() == 2, "{old}");
    let new = std::fs::read_to_string(&path).unwrap();
    let records: Vec<EventRecord> =
        new.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((records.len(), records[0].text.as_str()), (2, "after"));
    assert!(records[1].text.contains("none/log: the log cannot be written there"), "{records:?}");
    assert!(Log::open(&settings(&dir.path().join("none/log"), LogForm::Text)).is_err());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "it names who knocks: not for everybody");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(Log::open(&settings(&link, LogForm::Text)).is_err(), "it may lead anywhere");
}

#[test]
fn the_end_waits_for_lines_that_somebody_reads() {
    let (reader, writer) = pipe().unwrap();
    let mut log = log_to(writer);
    log.flush(Duration::from_secs(10));
    log.event(Wall(0), event("the last words"));
    log.flush(Duration::from_secs(10));
    assert!(log.shared.lock().is_done());
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    assert_eq!(line, "the last words\n");
}

#[test]
fn a_line_on_its_way_is_waited_for() {
    let (_reader, writer, _) = full_pipe();
    let mut log = log_to(writer);
    log.event(Wall(0), event("the last words"));
    let begun = std::time::Instant::now();
    while !log.shared.lock().entries.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody writes it");
        std::thread::yield_now();
    }
    assert!(!log.shared.lock().is_done());
}

#[test]
fn a_line_stays_one_line_whatever_is_in_it() {
    assert_eq!(escaped("door: a\r\x1b[2Jb\u{202e}"), "door: a\\u{d}\\u{1b}[2Jb\\u{202e}");
    assert_eq!(escaped("what\n  remedy"), "what; remedy");
    assert!(escaped(&"x".repeat(5000)).len() < 1100);
}
