//! Where events are found: the journal, files with those that logrotate has put aside, or what the
//! running gateway keeps itself.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::{is_known, record_of_text};
use crate::app::admin;
use crate::app::args::toctocd::LogArgs;
use crate::app::output::count;
use crate::config::{LogTarget, Settings, defaults};
use crate::core::types::Fault;
use crate::edge::log::{EventRecord, PROGRAM};

const JOURNAL: &str = "/run/systemd/journal/socket";
/// How often a file, or the gateway, is looked at with --follow.
const LOOK: Duration = Duration::from_millis(300);
/// The longest line of a file that is read.
const LONGEST: u64 = 64 << 10;

pub(super) enum Source {
    Journal,
    /// The log and those that were rotated, the oldest first.
    Files(Vec<PathBuf>),
    /// What the gateway keeps; why there is nothing else.
    Kept(&'static str),
}

type Each<'a> = &'a mut dyn FnMut(EventRecord);

impl Source {
    /// Where the log of this configuration can be read.
    pub(super) fn find(settings: &Settings) -> Result<Source, Fault> {
        match &settings.log.to {
            LogTarget::File(path) => Ok(Source::Files(with_rotated(path))),
            LogTarget::Journal => Ok(Source::Journal),
            LogTarget::Syslog => Ok(Source::Kept("syslog writes the log wherever it is told to")),
            LogTarget::Stderr => match admin::ask_events(settings, 0) {
                Ok(page) => Ok(Source::of_stderr(&format!("/proc/{}/fd/2", page.pid))),
                Err(_) if Path::new(JOURNAL).exists() => Ok(Source::Journal),
                Err(_) if Path::new(defaults::LOG).exists() => {
                    Ok(Source::Files(with_rotated(Path::new(defaults::LOG))))
                }
                Err(fault) => Err(Fault {
                    what: format!("there is no log to look at: {}", fault.what),
                    remedy: "start toctocd, or let [log] to name the journal or a file".to_owned(),
                    ..fault
                }),
            },
        }
    }

    /// Where standard error goes of the process that has it under this name.
    fn of_stderr(link: &str) -> Source {
        let place = fs::read_link(link).unwrap_or_default();
        let is_socket = place.to_string_lossy().starts_with("socket:");
        if is_socket && Path::new(JOURNAL).exists() {
            return Source::Journal;
        }
        match place.is_file() {
            true => Source::Files(with_rotated(&place)),
            false => Source::Kept("standard error of the gateway goes to no file and no journal"),
        }
    }

    /// In words, after "from".
    pub(super) fn describe(&self) -> String {
        match self {
            Source::Journal => "the journal".to_owned(),
            Source::Files(paths) => {
                let name = paths.last().map(|path| path.display().to_string()).unwrap_or_default();
                match paths.len() {
                    0 | 1 => name,
                    more => format!("{name} and {}", count(more - 1, "rotated file")),
                }
            }
            Source::Kept(why) => {
                format!("the gateway's memory, which has its last 512 events: {why}")
            }
        }
    }

    /// Calls `each` with every event, the oldest first. With `follow` until somebody interrupts.
    pub(super) fn each(
        &self, settings: &Settings, args: &LogArgs, each: Each<'_>,
    ) -> Result<(), Fault> {
        match self {
            Source::Journal => of_journal(args, each),
            Source::Files(paths) => of_files(paths, args, each),
            Source::Kept(_) => of_gateway(settings, args.follow, each),
        }
    }
}

fn of_gateway(settings: &Settings, follow: bool, each: Each<'_>) -> Result<(), Fault> {
    let mut after = 0;
    loop {
        for one in admin::ask_events(settings, after)?.events {
            after = one.number;
            each(one.event);
        }
        if !follow {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

fn of_journal(args: &LogArgs, each: Each<'_>) -> Result<(), Fault> {
    let mut command = Command::new("journalctl");
    command.args(["-o", "json", "--no-pager", "-q", "-t", PROGRAM]);
    if let Some(since) = args.since {
        command.arg(format!("--since=@{}", since.as_second()));
    }
    if args.follow {
        command.args(["-f", if args.since.is_some() { "-nall" } else { "-n10" }]);
    }
    // The journal has an index of its fields.
    if let Some(id) = args.id {
        command.arg(format!("TOCTOC_ID={id}"));
    }
    let fault = |error: io::Error| {
        let remedy = "is systemd's journal on this machine? Otherwise set [log] to";
        Fault::new(format!("journalctl: {error}"), remedy)
    };
    let (mut child, out) = output_of(&mut command).map_err(fault)?;
    for_lines(BufReader::new(out), &mut |line| each(of_journal_line(line)));
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(fault(io::Error::other(format!("{status}")))),
        Err(error) => Err(fault(error)),
    }
}

/// The event of a line of `journalctl -o json`.
fn of_journal_line(line: &str) -> EventRecord {
    let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let micros = text("__REALTIME_TIMESTAMP").and_then(|text| text.parse().ok());
    let time = micros.and_then(|micros| Timestamp::from_microsecond(micros).ok());
    let time = time.unwrap_or_default().to_zoned(TimeZone::system());
    let time = time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    let record = record_of_text(time, &text("MESSAGE").unwrap_or_default());
    EventRecord {
        event: text("TOCTOC_EVENT").unwrap_or_default(),
        level: text("PRIORITY").map(|number| level_word(&number)).unwrap_or_default(),
        client: text("TOCTOC_CLIENT"),
        service: text("TOCTOC_SERVICE"),
        address: text("TOCTOC_ADDRESS"),
        seconds: text("TOCTOC_SECONDS").and_then(|text| text.parse().ok()),
        reason: text("TOCTOC_REASON"),
        ..record
    }
}

fn level_word(number: &str) -> String {
    let words = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
    let word = number.parse::<usize>().ok().and_then(|number| words.get(number));
    word.unwrap_or(&"info").to_string()
}

/// The file, after those that logrotate made of it: `log.2.gz`, `log.1`, `log-20261128`.
fn with_rotated(path: &Path) -> Vec<PathBuf> {
    let mut rotated = Vec::new();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let directory = path.parent().unwrap_or(Path::new("/"));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let other = entry.file_name().to_string_lossy().into_owned();
        let rest = other.strip_prefix(&name).map(|rest| rest.strip_suffix(".gz").unwrap_or(rest));
        let number = rest.and_then(|rest| rest.strip_prefix(['.', '-']));
        let is_rotated = number.is_some_and(|number| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
        });
        if is_rotated && let Ok(metadata) = entry.metadata() {
            rotated.push((metadata.mtime(), entry.path()));
        }
    }
    rotated.sort();
    let mut paths: Vec<PathBuf> = rotated.into_iter().map(|(_, path)| path).collect();
    paths.push(path.to_owned());
    paths
}

fn of_files(paths: &[PathBuf], args: &LogArgs, each: Each<'_>) -> Result<(), Fault> {
    let Some((path, rotated)) = paths.split_last() else { return Ok(()) };
    for old in rotated {
        let last = fs::metadata(old).map(|metadata| metadata.mtime()).unwrap_or(i64::MAX);
        // Nothing was written to it after that.
        if args.since.is_some_and(|since| last < since.as_second()) {
            continue;
        }
        read_rotated(old, each).map_err(|error| unreadable(old, &error))?;
    }
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut partial = Vec::new();
    loop {
        let read = read_more(&mut file, &mut partial, each);
        read.map_err(|error| unreadable(path, &error))?;
        if !args.follow {
            return Ok(());
        }
        std::thread::sleep(LOOK);
        if let Ok(there) = fs::metadata(path) {
            let here = file.metadata().map_err(|error| unreadable(path, &error))?;
            let at = file.stream_position().unwrap_or(0);
            let was_rotated = there.ino() != here.ino() || there.len() < at;
            // The rest of the old one comes first.
            if was_rotated && let Ok(new) = File::open(path) {
                let _ = read_more(&mut file, &mut partial, each);
                (file, partial) = (new, Vec::new());
            }
        }
    }
}

/// Reads whole lines up to the end as it is now. What follows the last line end is kept.
fn read_more(file: &mut File, partial: &mut Vec<u8>, each: Each<'_>) -> io::Result<()> {
    let mut reader = BufReader::new(&mut *file);
    loop {
        reader.by_ref().take(LONGEST).read_until(b'\n', partial)?;
        if partial.last() != Some(&b'\n') && partial.len() < LONGEST as usize {
            let end = reader.stream_position()?;
            file.seek(SeekFrom::Start(end))?;
            return Ok(());
        }
        let line = String::from_utf8_lossy(partial).into_owned();
        each(of_file_line(line.trim_end()));
        partial.clear();
    }
}

fn read_rotated(path: &Path, each: Each<'_>) -> io::Result<()> {
    if path.extension().is_none_or(|end| end != "gz") {
        return read_more(&mut File::open(path)?, &mut Vec::new(), each);
    }
    let mut command = Command::new("gzip");
    command.arg("-dc").arg(path);
    let (mut child, out) = output_of(&mut command)?;
    for_lines(BufReader::new(out), &mut |line| each(of_file_line(line)));
    match child.wait()?.success() {
        true => Ok(()),
        false => Err(io::Error::other("gzip cannot read it")),
    }
}

fn output_of(command: &mut Command) -> io::Result<(Child, impl Read)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((child, out))
}

fn for_lines(mut reader: impl BufRead, each: &mut dyn FnMut(&str)) {
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => each(String::from_utf8_lossy(&line).trim_end()),
        }
    }
}

/// A line of a file: JSON, or the local time and text.
fn of_file_line(line: &str) -> EventRecord {
    if let Ok(record) = serde_json::from_str::<EventRecord>(line)
        && is_known(&record)
    {
        return record;
    }
    let (stamp, text) = line.split_at_checked(19).unwrap_or(("", line));
    let time = stamp.parse::<DateTime>().and_then(|time| time.to_zoned(TimeZone::system()));
    match time {
        Ok(time) => {
            let time = time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
            record_of_text(time, text.trim_start())
        }
        Err(_) => record_of_text(String::new(), line),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let what = format!("{}: the log cannot be read: {error}", path.display());
    Fault::new(what, "run this as root; [log] to names the file")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::core::event::{EventKind, KnockId};
    use crate::core::types::Wall;
    use crate::edge::log::{LogEvent, date_time, json_line};

    const NOW: Wall = Wall(1_800_000_000_000_000_000);

    fn event(text: &str) -> LogEvent {
        LogEvent::new(EventKind::Granted, text).of(KnockId([0, 0, 0, 1])).client("anna")
    }

    fn texts(paths: &[PathBuf]) -> Vec<String> {
        let mut texts = Vec::new();
        of_files(paths, &LogArgs::default(), &mut |record| texts.push(record.text)).unwrap();
        texts
    }

    #[test]
    fn rotated_files_come_first_the_oldest_at_the_beginning_also_compressed_ones() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let write = |name: &str, text: &str, age: u64| {
            let path = dir.path().join(name);
            fs::write(&path, format!("{} {text}\n", date_time(NOW))).unwrap();
            let then = std::time::SystemTime::now() - Duration::from_secs(age);
            File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        };
        write("log", "new", 0);
        write("log.1", "old", 10);
        write("log-20261101", "older", 20);
        write("log.3", "oldest", 30);
        write("log.bak", "another", 5);
        write("logs", "another", 5);
        let status = Command::new("gzip").arg(dir.path().join("log.3")).status().unwrap();
        assert!(status.success());
        assert_eq!(texts(&with_rotated(&log)), ["oldest", "older", "old", "new"]);
        assert_eq!(Source::Files(with_rotated(&log)).describe().split(' ').nth(2), Some("3"));
    }

    #[test]
    fn lines_of_json_and_of_text_are_read_and_half_a_line_waits_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = File::create(&path).unwrap();
        write!(
            log,
            "{}{} text (id 00000002)\nnonsense\nha",
            json_line(NOW, &event("json")),
            date_time(NOW)
        )
        .unwrap();
        let mut file = File::open(&path).unwrap();
        let (mut partial, mut read) = (Vec::new(), Vec::new());
        read_more(&mut file, &mut partial, &mut |record| read.push(record)).unwrap();
        assert_eq!(read[0], event("json").record(NOW));
        assert_eq!((read[1].id.as_deref(), read[1].text.as_str()), (Some("00000002"), "text"));
        assert_eq!(read[1].time, read[0].time, "both are local time with the zone");
        assert_eq!((read[2].text.as_str(), read.len()), ("nonsense", 3));
        writeln!(log, "lf").unwrap();
        read_more(&mut file, &mut partial, &mut |record| read.push(record)).unwrap();
        assert_eq!((read[3].text.as_str(), read.len()), ("half", 4));
    }

    #[test]
    fn a_line_of_the_journal_has_every_field() {
        let line = serde_json::json!({
            "__REALTIME_TIMESTAMP": "1800000000000000", "MESSAGE": "anna: ok (id 00000001)",
            "PRIORITY": "6", "TOCTOC_EVENT": "granted", "TOCTOC_ID": "00000001",
            "TOCTOC_CLIENT": "anna", "SYSLOG_IDENTIFIER": "toctocd",
        });
        assert_eq!(of_journal_line(&line.to_string()), event("anna: ok").record(NOW));
    }

    #[test]
    fn standard_error_is_found_where_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("2");
        let log = dir.path().join("log");
        fs::write(&log, "").unwrap();
        std::os::unix::fs::symlink(&log, &link).unwrap();
        assert!(matches!(Source::of_stderr(link.to_str().unwrap()), Source::Files(_)));
        fs::remove_file(&log).unwrap();
        assert!(matches!(Source::of_stderr(link.to_str().unwrap()), Source::Kept(_)));
    }
}
