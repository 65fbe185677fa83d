//! Host names of sources for log lines.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::core::address::as_text;
use crate::edge::names::reverse;

const NAMES: usize = 1024;
/// The longest that all lines together wait for names at once. A tenth of the time that passes
/// adds to it again, so that no flood with slow names holds up commands.
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
    /// What is left of [`PATIENCE`], and when that was so.
    patience: Duration,
    patience_at: Instant,
}

impl Names {
    /// `is_wanted`: look up names at all.
    pub(super) fn new(is_wanted: bool) -> Self {
        let lookup = if is_wanted { Some(Lookup::start(reverse)) } else { None };
        Self { lookup, known: BTreeMap::new() }
    }

    /// Looks up the name of `ip` after its first correct step, for this line and the next ones. A
    /// slow name server delays a line for a moment only: until it answers, other lines have no
    /// names. knockd waits for each answer, packets included.
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
        match lookup.wait() {
            Some((ip, name)) => {
                self.known.insert(ip, name);
            }
            None => lookup.is_busy = true,
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
        let patience_at = Instant::now();
        Self { questions, answers, is_busy: false, patience: PATIENCE, patience_at }
    }

    /// Waits for an answer as long as patience allows.
    fn wait(&mut self) -> Option<(IpAddr, Option<String>)> {
        let begin = Instant::now();
        let gained = begin.duration_since(self.patience_at) / 10;
        let patience = PATIENCE.min(self.patience + gained);
        let answer = self.answers.recv_timeout(patience).ok();
        self.patience_at = Instant::now();
        self.patience = patience.saturating_sub(self.patience_at.duration_since(begin));
        answer
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
        let (ask, asked) = channel();
        let mut names = names(move |ip| {
            ask.send(ip).unwrap();
            let _ = wait.recv();
            Some(format!("host{ip}"))
        });
        names.begin(ip(1));
        assert_eq!(names.shown(ip(1)), "192.0.2.1");
        // Busy with the first one: no question, no wait.
        names.begin(ip(2));
        drop(release);
        for _ in 0..1000 {
            names.begin(ip(3));
            if names.known.contains_key(&ip(3)) {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(names.shown(ip(1)), "192.0.2.1 (host192.0.2.1)", "the late answer");
        drop(names);
        let asked: Vec<IpAddr> = asked.iter().collect();
        assert_eq!((asked[0], asked.contains(&ip(2))), (ip(1), false), "{asked:?}");
    }

    #[test]
    fn many_slow_answers_together_delay_lines_for_a_moment_only() {
        let mut names = names(|_| {
            // A name server on the other side of the world.
            thread::sleep(Duration::from_millis(30));
            None
        });
        let begin = Instant::now();
        for n in 0..=255 {
            names.begin(ip(n));
        }
        // All of them take 7.7 s.
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    }
}
