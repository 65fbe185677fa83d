//! Host names of sources for log lines.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::core::address::as_text;
use crate::edge::names::reverse;

const NAMES: usize = 1024;
/// How long a line waits for a name.
const PATIENCE: Duration = Duration::from_millis(200);

pub(super) struct Names {
    lookup: Option<Lookup>,
    known: BTreeMap<IpAddr, Option<String>>,
}

/// A thread that asks name servers, one question at a time.
struct Lookup {
    questions: Sender<IpAddr>,
    answers: Receiver<(IpAddr, Option<String>)>,
    /// The thread has a question that it has not answered.
    is_busy: bool,
}

impl Names {
    /// `is_wanted`: look up names at all.
    pub(super) fn new(is_wanted: bool) -> Self {
        let lookup = if is_wanted { Some(Lookup::start(reverse)) } else { None };
        Self { lookup, known: BTreeMap::new() }
    }

    /// Looks up the name of `ip` after its first correct step, for this line and the next ones. A
    /// slow name server delays this line only: until it answers, other lines have no names. knockd
    /// waits for each answer, packets included.
    pub(super) fn begin(&mut self, ip: IpAddr) {
        let Some(lookup) = &mut self.lookup else { return };
        if self.known.len() >= NAMES {
            self.known.clear();
        }
        self.known.remove(&ip);
        if let Some((late, name)) = lookup.answers.try_iter().last() {
            lookup.is_busy = false;
            self.known.insert(late, name);
        }
        if lookup.is_busy || lookup.questions.send(ip).is_err() {
            return;
        }
        match lookup.answers.recv_timeout(PATIENCE) {
            Ok((ip, name)) => {
                self.known.insert(ip, name);
            }
            Err(_) => lookup.is_busy = true,
        }
    }

    /// `<ip>`, or `<ip> (<host name>)`.
    pub(super) fn shown(&self, ip: IpAddr) -> String {
        match self.known.get(&ip) {
            Some(Some(name)) => format!("{} ({name})", as_text(ip)),
            _ => as_text(ip),
        }
    }
}

impl Lookup {
    fn start(resolve: impl Fn(IpAddr) -> Option<String> + Send + 'static) -> Self {
        let (questions, asked) = channel::<IpAddr>();
        let (tell, answers) = channel();
        thread::spawn(move || {
            // It ends with the daemon's end of the channels.
            for ip in asked {
                if tell.send((ip, resolve(ip))).is_err() {
                    return;
                }
            }
        });
        Self { questions, answers, is_busy: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(resolve: impl Fn(IpAddr) -> Option<String> + Send + 'static) -> Names {
        Names { lookup: Some(Lookup::start(resolve)), known: BTreeMap::new() }
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_name_is_shown_behind_its_address() {
        let mut names = names(|ip| (ip == self::ip(1)).then(|| "host.example".to_owned()));
        names.begin(ip(1));
        names.begin(ip(2));
        assert_eq!(names.shown(ip(1)), "192.0.2.1 (host.example)");
        assert_eq!(names.shown(ip(2)), "192.0.2.2");
        assert_eq!(names.shown(ip(3)), "192.0.2.3", "never asked for");
    }

    #[test]
    fn without_lookup_no_name_is_asked_for() {
        let mut names = Names::new(false);
        names.begin(ip(1));
        assert_eq!(names.shown(ip(1)), "192.0.2.1");
    }

    #[test]
    fn a_slow_answer_delays_one_line_and_counts_when_it_comes() {
        let (release, wait) = channel::<()>();
        let mut names = names(move |ip| {
            let _ = wait.recv();
            Some(format!("host{ip}"))
        });
        names.begin(ip(1));
        assert_eq!(names.shown(ip(1)), "192.0.2.1");
        // Busy with the first one: no question, no wait.
        names.begin(ip(2));
        assert!(names.known.is_empty());
        drop(release);
        let answer = names.lookup.as_ref().unwrap().answers.recv().unwrap();
        assert_eq!(answer.0, ip(1), "the second one was not asked for");
    }
}
