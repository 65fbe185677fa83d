//! Where the log's thread writes events: a stream or a file, the journal, or syslog. Only that
//! thread waits here.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

use super::event::LogEvent;
use super::{clock_time, date_time, escaped};
use crate::config::{LogForm, LogSettings, LogTarget};
use crate::core::types::{Fault, Wall};
use crate::edge::classic_log::local;

/// journald's native protocol.
const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";
/// The name of the program in journal and syslog.
pub const PROGRAM: &str = "toctocd";
/// The facility "daemon".
const FACILITY: u8 = 3 << 3;

pub(super) trait Sink: Write + AsFd + Send {}
impl<T: Write + AsFd + Send> Sink for T {}

/// The time at the beginning of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stamp {
    None,
    /// For somebody who watches.
    TimeOfDay,
    /// For a file, which is read later.
    DateTime,
}

pub(super) enum Outlet {
    Stream {
        sink: Box<dyn Sink>,
        stamp: Stamp,
        form: LogForm,
    },
    /// The socket, and where it sends to: the other end may be restarted.
    Journal(UnixDatagram, PathBuf),
    Syslog(UnixDatagram, PathBuf),
}

impl Outlet {
    /// The outlet that the settings name.
    pub(super) fn open(settings: &LogSettings) -> Result<Outlet, Fault> {
        let form = settings.form;
        match &settings.to {
            LogTarget::Stderr => Ok(Outlet::stderr(form)),
            LogTarget::Journal => datagram(JOURNAL).map(|(socket, to)| Outlet::Journal(socket, to)),
            LogTarget::Syslog => datagram(SYSLOG).map(|(socket, to)| Outlet::Syslog(socket, to)),
            LogTarget::File(path) => {
                let mut options = OpenOptions::new();
                options.append(true).create(true).mode(0o640);
                let file = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(path);
                let sink = file.map_err(|error| unusable(&path.display().to_string(), &error))?;
                Ok(Outlet::Stream { sink: Box::new(sink), stamp: Stamp::DateTime, form })
            }
        }
    }

    /// Standard error. If that is the journal's stream, the journal gets the fields too.
    fn stderr(form: LogForm) -> Outlet {
        let stderr = io::stderr();
        let journal = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let is_journal = is_stream(stderr.as_fd(), &journal);
        if is_journal && let Ok((socket, to)) = datagram(JOURNAL) {
            return Outlet::Journal(socket, to);
        }
        let stamp = match stderr.is_terminal() {
            true => Stamp::TimeOfDay,
            // journald adds its own.
            false if is_journal => Stamp::None,
            false => Stamp::DateTime,
        };
        Outlet::Stream { sink: Box::new(stderr), stamp, form }
    }

    pub(super) fn write(&mut self, at: Wall, event: &LogEvent) {
        match self {
            Outlet::Stream { sink, stamp, form: LogForm::Text } => {
                let text = escaped(&event.line());
                let line = match stamp {
                    Stamp::None => format!("{text}\n"),
                    Stamp::TimeOfDay => format!("{} {text}\n", clock_time(at)),
                    Stamp::DateTime => format!("{} {text}\n", date_time(at)),
                };
                write_all(sink.as_mut(), line.as_bytes());
            }
            Outlet::Stream { sink, form: LogForm::Json, .. } => {
                write_all(sink.as_mut(), json_line(at, event).as_bytes());
            }
            // A datagram that cannot be sent is lost, as a line is on a full disk.
            Outlet::Journal(socket, to) => {
                let _ = socket.send_to(&journal_fields(event), to);
            }
            Outlet::Syslog(socket, to) => {
                let _ = socket.send_to(syslog_message(at, event).as_bytes(), to);
            }
        }
    }
}

/// True if `stream` has this device and inode, as systemd names the stream to the journal.
pub(super) fn is_stream(stream: BorrowedFd<'_>, named: &str) -> bool {
    match fstat(stream) {
        Ok(found) => named == format!("{}:{}", found.st_dev, found.st_ino),
        Err(_) => false,
    }
}

/// A socket that can send there now.
fn datagram(path: &str) -> Result<(UnixDatagram, PathBuf), Fault> {
    let opened = UnixDatagram::unbound().and_then(|socket| {
        socket.connect(path)?;
        // Another one, without a peer: that may be restarted, and sends go to the path.
        UnixDatagram::unbound()
    });
    let socket = opened.map_err(|error| unusable(path, &error))?;
    Ok((socket, Path::new(path).to_owned()))
}

fn unusable(place: &str, error: &io::Error) -> Fault {
    Fault::new(
        format!("{place}: the log cannot be written there: {error}"),
        "see [log] to in toctocd.toml: \"stderr\" always works",
    )
}

/// Writes the line. One that cannot be written is lost.
fn write_all(sink: &mut dyn Sink, line: &[u8]) {
    while let Err(error) = sink.write_all(line) {
        if error.kind() != io::ErrorKind::WouldBlock {
            break;
        }
        // Another process that shares the file has made it non-blocking.
        let _ = poll(&mut [PollFd::new(sink.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
    }
}

/// The event as one line of JSON.
pub fn json_line(at: Wall, event: &LogEvent) -> String {
    let mut record = event.record(at);
    record.text = escaped(&record.text);
    serde_json::to_string(&record).unwrap_or_default() + "\n"
}

/// The fields of an event that are not in its text, each with its name.
fn fields(event: &LogEvent) -> Vec<(&'static str, String)> {
    let mut fields = vec![("event", event.kind.name().to_owned())];
    fields.extend(event.id.map(|id| ("id", id.to_string())));
    fields.extend(event.client.as_ref().map(|client| ("client", escaped(client))));
    fields.extend(event.service.map(|service| ("service", service.to_string())));
    fields.extend(event.address.as_ref().map(|address| ("address", escaped(address))));
    fields.extend(event.seconds.map(|seconds| ("seconds", seconds.to_string())));
    fields.extend(event.reason.map(|reason| ("reason", reason.to_owned())));
    fields
}

/// No value has a line feed, so that each field is one line.
fn journal_fields(event: &LogEvent) -> Vec<u8> {
    let mut message = format!(
        "MESSAGE={}\nPRIORITY={}\nSYSLOG_IDENTIFIER={PROGRAM}\n",
        escaped(&event.line()),
        event.level.number()
    );
    for (name, value) in fields(event) {
        message += &format!("TOCTOC_{}={value}\n", name.to_uppercase());
    }
    message.into_bytes()
}

/// RFC 5424, with the fields as structured data. 32473 is the number for those without one of
/// their own.
fn syslog_message(at: Wall, event: &LogEvent) -> String {
    let priority = FACILITY | event.level.number();
    let time = local(at).strftime("%Y-%m-%dT%H:%M:%S%:z");
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let host = host.filter(|name| !name.is_empty()).unwrap_or("-".to_owned());
    let mut data = String::new();
    for (name, value) in fields(event) {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]");
        data += &format!(" {name}=\"{value}\"");
    }
    format!(
        "<{priority}>1 {time} {host} {PROGRAM} {} {} [toctoc@32473{data}] {}",
        std::process::id(),
        event.kind.name(),
        escaped(&event.line())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::{EventKind, KnockId};
    use crate::core::types::ServiceName;

    fn refused() -> LogEvent {
        LogEvent::new(EventKind::Refused, "anna: refused\nMESSAGE=forged")
            .of(KnockId([0x7f, 0x3a, 0x91, 0xc2]))
            .client("an\"na]\\")
            .service(ServiceName::new("ssh").unwrap())
            .address("192.0.2.7")
            .reason("denied")
    }

    #[test]
    fn the_journal_gets_every_field_on_a_line_of_its_own_and_none_is_forged() {
        let fields = String::from_utf8(journal_fields(&refused())).unwrap();
        assert_eq!(
            fields.lines().collect::<Vec<_>>(),
            [
                "MESSAGE=anna: refused; MESSAGE=forged (id 7f3a91c2)",
                "PRIORITY=5",
                "SYSLOG_IDENTIFIER=toctocd",
                "TOCTOC_EVENT=refused",
                "TOCTOC_ID=7f3a91c2",
                "TOCTOC_CLIENT=an\"na]\\",
                "TOCTOC_SERVICE=ssh",
                "TOCTOC_ADDRESS=192.0.2.7",
                "TOCTOC_REASON=denied",
            ]
        );
    }

    #[test]
    fn syslog_gets_the_fields_as_structured_data_with_its_escapes() {
        let message = syslog_message(Wall(0), &refused());
        assert!(message.starts_with("<29>1 19"), "{message}");
        let data = "toctocd 1 refused [toctoc@32473 event=\"refused\" id=\"7f3a91c2\" \
                    client=\"an\\\"na\\]\\\\\" service=\"ssh\" address=\"192.0.2.7\" \
                    reason=\"denied\"] anna: refused; MESSAGE=forged (id 7f3a91c2)";
        let data = data.replace(" 1 refused", &format!(" {} refused", std::process::id()));
        assert!(message.ends_with(&data), "{message}");
    }

    #[test]
    fn both_sockets_are_found_again_after_the_other_end_was_restarted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let first = UnixDatagram::bind(&path).unwrap();
        let (socket, to) = datagram(path.to_str().unwrap()).unwrap();
        let mut outlet = Outlet::Journal(socket, to);
        let mut buffer = [0; 1024];
        outlet.write(Wall(0), &refused());
        assert!(first.recv(&mut buffer).unwrap() > 0);
        drop(first);
        outlet.write(Wall(0), &refused());
        std::fs::remove_file(&path).unwrap();
        let second = UnixDatagram::bind(&path).unwrap();
        second.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        outlet.write(Wall(0), &refused());
        assert!(second.recv(&mut buffer).unwrap() > 0);
        assert!(datagram("/nonexistent/log").is_err());
    }

    #[test]
    fn a_line_of_json_is_read_as_it_was_written() {
        let line = json_line(Wall(0), &refused());
        assert_eq!(line.matches('\n').count(), 1);
        let record: super::super::EventRecord = serde_json::from_str(&line).unwrap();
        let escaped = LogEvent { text: "anna: refused; MESSAGE=forged".to_owned(), ..refused() };
        assert_eq!(record, escaped.record(Wall(0)));
    }

    #[test]
    fn the_journal_is_known_by_its_device_and_inode() {
        let (_reader, writer) = io::pipe().unwrap();
        let found = fstat(&writer).unwrap();
        let name = format!("{}:{}", found.st_dev, found.st_ino);
        assert!(is_stream(writer.as_fd(), &name));
        assert!(!is_stream(writer.as_fd(), "") && !is_stream(io::stdin().as_fd(), &name));
    }
}
