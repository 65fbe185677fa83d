//! Sightings, senders and programs in words.

use super::super::measure::Sighting;
use crate::app::output::count;
use crate::edge::listening::ListeningSocket;
use crate::edge::probe::Seen;

/// The most senders that a sentence names.
const SHOWN: usize = 3;

/// A round at one port in a word or two.
pub(super) fn view(round: &[&Sighting]) -> String {
    let open = round.iter().any(|one| one.seen.is_open());
    if !open {
        let refused = round.iter().any(|one| one.seen == Seen::Refused);
        return if refused { "refused" } else { "silent" }.to_owned();
    }
    // Of one sender one address that answers is enough.
    let finds = |v6: bool| {
        let of_family = || round.iter().filter(move |one| one.address.is_ipv6() == v6);
        let count_of = |only_open: bool| {
            let mut senders: Vec<_> = of_family()
                .filter(|one| !only_open || one.seen.is_open())
                .map(|one| one.address)
                .collect();
            senders.sort_unstable();
            senders.dedup();
            senders.len()
        };
        (count_of(true), count_of(false))
    };
    match (finds(false), finds(true)) {
        ((0, 1..), (_, _)) => "OPEN, IPv6 only".to_owned(),
        ((_, _), (0, 1..)) => "OPEN, IPv4 only".to_owned(),
        ((some, all), (some6, all6)) if some + some6 == all + all6 => "OPEN".to_owned(),
        _ => "OPEN to some".to_owned(),
    }
}

/// The senders of these, each once.
pub(super) fn who(sightings: &[&Sighting]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for one in sightings {
        if !names.contains(&one.who.as_str()) {
            names.push(&one.who);
        }
    }
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join("; ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {}", count(more, "other")),
    }
}

/// The programs that listen at a port.
pub(super) fn listens(sockets: &[ListeningSocket]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for socket in sockets {
        let name = match &socket.process {
            Some(process) => format!("{}, pid {}", process.name, process.pid),
            None => "the kernel".to_owned(),
        };
        let text = if socket.local.ip().is_loopback() { format!("{name} on lo") } else { name };
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if texts.is_empty() { "nothing".to_owned() } else { texts.join("; ") }
}
