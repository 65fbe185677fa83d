//! The result of a sealed command as text. See `json` for the same as JSON.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::ask::{ExchangeOutcome, GatewayResult};
use super::refusal::{RefusedKnock, everybody_text, refusal};
use super::{DONE, NO_ANSWER, PARTLY, REFUSED, UNREACHABLE};
use crate::app::output::{CommandOutput, count};
use crate::core::event::KnockId;
use crate::core::exchange::{AddressOrigin, ClientRequest, ReceivedReceipt};
use crate::core::knock::{KnockKind, PortEntry, Receipt, Status};
use crate::core::prefix::Span;
use crate::core::types::{SECOND, ServiceName, Wall};
use crate::edge::clock;
use crate::keys::profile::Profile;
use crate::keys::public::show_fingerprint;

mod json;

/// Clock differences up to this are not mentioned, in nanoseconds.
const CLOCK_SLACK: u64 = 2 * SECOND;

pub(super) struct ExchangeReport<'a> {
    /// The profile's name or path, as the user typed it.
    pub(super) name: &'a str,
    pub(super) profile: &'a Profile,
    pub(super) request: &'a ClientRequest,
    pub(super) results: &'a [GatewayResult],
}

impl ExchangeReport<'_> {
    /// The exit code: the best result counts, but success beside a refusal is only [`PARTLY`].
    pub(super) fn code(&self) -> u8 {
        let mut codes = Vec::new();
        for result in self.results {
            codes.push(match &result.outcome {
                ExchangeOutcome::Received(received) if self.is_success(received) => DONE,
                ExchangeOutcome::Received(_) => REFUSED,
                ExchangeOutcome::Silence => NO_ANSWER,
                ExchangeOutcome::Unreachable(_) => UNREACHABLE,
            });
        }
        match codes.contains(&DONE) && codes.contains(&REFUSED) {
            true => PARTLY,
            false => codes.into_iter().min().unwrap_or(UNREACHABLE),
        }
    }

    fn is_success(&self, received: &ReceivedReceipt) -> bool {
        let success = match self.request.kind {
            KnockKind::Open => Status::Granted,
            KnockKind::Close => Status::Closed,
            KnockKind::Probe => Status::Observed,
            // It is only a means: the client goes on with the answer.
            KnockKind::Time => Status::Clock,
            KnockKind::Join => Status::Enrolled,
        };
        received.receipt.status == success
    }

    pub(super) fn output(&self) -> CommandOutput {
        let code = self.code();
        let mut out = Vec::new();
        let mut err = Vec::new();
        let mut clock = String::new();
        for result in self.results {
            match &result.outcome {
                ExchangeOutcome::Received(received) => {
                    let mut text = self.receipt_text(result, received);
                    let is_success = self.is_success(received);
                    if code == PARTLY && !is_success {
                        text = format!("{}: {text}", result.gateway.ip());
                    }
                    // What both families have in common is said once.
                    let said = if is_success { &mut out } else { &mut err };
                    if !said.contains(&text) {
                        said.push(text);
                    }
                    if clock.is_empty() {
                        clock = clock_text(received);
                    }
                }
                // `silence_text` is about all of them.
                ExchangeOutcome::Silence if code == NO_ANSWER || result.knocks == 0 => {}
                ExchangeOutcome::Silence => {
                    let gateway = result.gateway.ip();
                    err.push(format!("no answer from {gateway}; another address answered\n"));
                }
                // If one family worked, the other one does not matter.
                ExchangeOutcome::Unreachable(_) if code == DONE => {}
                ExchangeOutcome::Unreachable(fault) => err.push(format!("{fault}\n")),
            }
        }
        let mut err = err.concat() + &clock;
        if code == NO_ANSWER {
            err += &self.silence_text();
        }
        if code != DONE {
            err += &ids_text(&self.unfulfilled());
        }
        if code == PARTLY {
            err += "only partly done: see above. To knock over one address family only, add -4 or \
                    -6, and connect over the same family\n";
        }
        if code == NO_ANSWER
            && self.request.kind == KnockKind::Open
            && self.profile.fallback.is_some()
        {
            err += &format!(
                "the profile also has a door's classic sequence: toctoc open --classic {}\n  \
                 sends it in cleartext: whoever sees it can repeat it, and somebody may have \
                 stopped the sealed knock to make you send it\n",
                self.name
            );
        }
        CommandOutput { code, err, ..CommandOutput::out(out.concat()) }
    }

    /// The ids of knocks that opened nothing, as far as anybody knows.
    fn unfulfilled(&self) -> Vec<KnockId> {
        let mut ids = Vec::new();
        for result in self.results {
            match &result.outcome {
                ExchangeOutcome::Received(received) if self.is_success(received) => {}
                ExchangeOutcome::Received(_) => ids.extend(result.answered),
                ExchangeOutcome::Silence => ids.extend(&result.ids),
                ExchangeOutcome::Unreachable(_) => {}
            }
        }
        ids.sort();
        ids.dedup();
        ids
    }

    fn receipt_text(&self, result: &GatewayResult, received: &ReceivedReceipt) -> String {
        let receipt = &received.receipt;
        let service = self.request.service;
        let gateway = result.gateway.ip();
        let observed = receipt.observed;
        if let Some(refusal) = refusal(self.request.kind, result, receipt) {
            return RefusedKnock {
                gateway: &gateway.to_string(),
                name: self.name,
                service,
                services: &self.profile.services,
            }
            .text(refusal);
        }
        match receipt.status {
            Status::Granted => self.granted_text(result, received),
            Status::Closed => {
                format!("closed: you have no grant for {service} at {gateway} any more\n")
            }
            Status::Observed => {
                let mut text = format!("{gateway} answered: it sees you as {observed}\n");
                if result.is_replaced(observed) {
                    text += &format!("  {}", everybody_text(observed));
                }
                text
            }
            // Refusals are above. Only `join` is answered like the rest: see `Receipt::may_answer`.
            _ => String::new(),
        }
    }

    fn granted_text(&self, result: &GatewayResult, received: &ReceivedReceipt) -> String {
        let receipt = &received.receipt;
        let who = receipt.granted.unwrap_or(receipt.observed);
        let granted = match net(receipt) {
            Some(net) => format!("{who} and all of {net}"),
            None => who.to_string(),
        };
        let ports = ports(receipt).join(", ");
        // A service of commands has no ports.
        let what = if ports.is_empty() { self.request.service.to_string() } else { ports };
        let mut text = GrantedKnock {
            granted: &granted,
            what: &what,
            gateway: &result.gateway.ip().to_string(),
            source_port: self.request.source_port,
            is_once: receipt.once,
            seconds: receipt.seconds,
            until: until(received),
        }
        .text();
        if self.request.seconds > receipt.seconds {
            text += &format!(
                "  you asked for {}: the gateway allows this key or service no more\n",
                duration_text(u64::from(self.request.seconds) * SECOND)
            );
        }
        if who != receipt.observed {
            text += &format!("  the knock came from {}\n", receipt.observed);
        }
        if let Some(named) = result.named
            && named.origin == AddressOrigin::Probed
        {
            text += "  that address is what the gateway saw of you; check that it is yours if \
                 somebody could have changed packets on the way\n";
        }
        text
    }

    /// The advice after silence, with what was really tried.
    fn silence_text(&self) -> String {
        let profile = self.profile;
        let mut tried = Vec::new();
        let mut left_out = Vec::new();
        let silent = |result: &&GatewayResult| matches!(result.outcome, ExchangeOutcome::Silence);
        for result in self.results.iter().filter(silent) {
            let gateway = result.gateway.ip();
            match result.knocks {
                0 => left_out.push(gateway.to_string()),
                knocks => {
                    tried.push(format!("from {gateway} to {}", count(knocks as usize, "knock")))
                }
            }
        }
        let opens = (self.request.kind == KnockKind::Open).then_some(self.request.service);
        let mut text = silence_line(&tried.join(", "), opens);
        if !left_out.is_empty() {
            text += &format!("  not tried, too many addresses: {}\n", left_out.join(", "));
        }
        text += &format!(
            "  what can be checked from here: toctoc doctor {}\n  \
             - is udp/{} blocked here, or in front of the gateway? Try another network\n  \
             - is the gateway still at {}, and running? Ask its admin\n  \
             - is `{}` still enrolled there? Its key is\n    {}\n  \
             - did this key knock very often just now? Then wait a minute\n  \
             a gateway answers nothing that it does not accept, so it cannot say which\n",
            self.name,
            profile.port,
            profile.addresses.join(", "),
            profile.name,
            show_fingerprint(&profile.key.fingerprint()),
        );
        text
    }
}

/// A knock that opened something, as it is told.
pub struct GrantedKnock<'a> {
    pub granted: &'a str,
    pub what: &'a str,
    pub gateway: &'a str,
    /// 0: any.
    pub source_port: u16,
    pub is_once: bool,
    pub seconds: u32,
    pub until: Wall,
}

impl GrantedKnock<'_> {
    pub fn text(&self) -> String {
        let GrantedKnock { granted, what, gateway, source_port, is_once, seconds, until } = self;
        let port = match source_port {
            0 => String::new(),
            port => format!(" from port {port}"),
        };
        let once = if *is_once { " with one connection" } else { "" };
        format!(
            "granted: {granted} may reach {what} at {gateway}{port}{once} for {}, until {}\n",
            duration_text(u64::from(*seconds) * SECOND),
            clock_time(*until, Timestamp::now(), &clock::zone()),
        )
    }
}

/// The first line after silence. `tried`: from whom how many knocks had none.
pub fn silence_line(tried: &str, opens: Option<ServiceName>) -> String {
    match opens {
        Some(service) => format!("no answer {tried}; {service} may be open all the same\n"),
        None => format!("no answer {tried}\n"),
    }
}

/// By which names the gateway's log has these knocks.
pub(super) fn ids_text(ids: &[KnockId]) -> String {
    let words: Vec<String> = ids.iter().map(ToString::to_string).collect();
    match words.as_slice() {
        [] => String::new(),
        [id] => format!("  the gateway's log has this knock by its id {id}\n"),
        [..] => format!(
            "  if the gateway read these knocks, its log has them by their ids {}\n",
            words.join(", ")
        ),
    }
}

pub(super) fn clock_text(received: &ReceivedReceipt) -> String {
    let behind = received.receipt.time.since(received.at);
    if behind.unsigned_abs() <= CLOCK_SLACK {
        return String::new();
    }
    let side = if behind > 0 { "behind" } else { "ahead of" };
    let difference = duration_text(behind.unsigned_abs());
    format!("note: this machine's clock is {difference} {side} the gateway's\n")
}

/// The granted net, if it is wider than one address.
pub(super) fn net(receipt: &Receipt) -> Option<String> {
    let granted = receipt.granted.filter(|_| receipt.span != Span::HOST)?;
    Some(format!("{}/{}", receipt.span.of(granted), receipt.span.prefix_length(granted)))
}

/// As in the configuration, but for what a receipt has no room to name.
pub(super) fn ports(receipt: &Receipt) -> Vec<String> {
    let text = |entry: &PortEntry| match entry {
        PortEntry::Range(range) => range.to_string(),
        PortEntry::All => "all ports".to_owned(),
        PortEntry::More => "more ports".to_owned(),
    };
    receipt.ports.iter().flatten().map(text).collect()
}

/// The end of a grant by the clock of this machine, even if that is wrong: the receipt's arrival
/// plus the seconds of the grant.
pub(super) fn until(received: &ReceivedReceipt) -> Wall {
    received.at.plus(received.receipt.seconds)
}

fn timestamp(wall: Wall) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(wall.0)).unwrap_or(Timestamp::MAX)
}

/// `14:03:20`, with the date if it is not today's.
pub(super) fn clock_time(then: Wall, now: Timestamp, zone: &TimeZone) -> String {
    let then = timestamp(then).to_zoned(zone.clone());
    let today = now.to_zoned(zone.clone()).date();
    let form = if then.date() == today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    then.strftime(form).to_string()
}

/// `30 s`, `10 min`, `1 h 2 min`, `400 d`: the two largest units, rounded to seconds.
pub fn duration_text(nanoseconds: u64) -> String {
    let seconds = (nanoseconds + SECOND / 2) / SECOND;
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let Some(largest) = units.iter().position(|(number, _)| *number > 0) else {
        return "0 s".to_owned();
    };
    let mut parts = Vec::new();
    for (number, unit) in units.iter().skip(largest).take(2) {
        if *number > 0 {
            parts.push(format!("{number} {unit}"));
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests;
