//! What one address of the gateway answered to a knock, as data.

use std::net::SocketAddr;

use jiff::Timestamp;

use super::ask::{ExchangeOutcome, GatewayResult};
use super::connect::tcp_port;
use super::messages::{ExchangeReport, clock_time, net, ports, until};
use super::refusal::{Refusal, refusal};
use super::{DONE, NO_ANSWER, PARTLY, REFUSED};
use crate::core::exchange::ReceivedReceipt;
use crate::core::knock::{KnockKind, Status};
use crate::core::types::Fault;
use crate::edge::clock;

/// What came of a knock.
pub struct Answers {
    pub overall: Overall,
    /// One for each address of the gateway.
    pub each: Vec<Answer>,
}

/// The best of all answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overall {
    Done,
    /// Done over one address, and refused over another.
    Partly,
    Refused,
    NoAnswer,
    NotSent,
}

/// The answer of one address of the gateway.
pub struct Answer {
    pub gateway: SocketAddr,
    pub outcome: Outcome,
}

pub enum Outcome {
    Granted(GrantText),
    Closed,
    Refused(Refusal),
    /// No answer to so many knocks; to none if another address answered before.
    Silence(u32),
    NotSent(Fault),
}

/// What a grant opens, ready to be shown.
pub struct GrantText {
    /// The address, or the net, that may connect.
    pub address: String,
    /// The opened ports as in the configuration; empty for a service of commands.
    pub ports: Vec<String>,
    /// The TCP port to connect to, if it is known.
    pub tcp_port: Option<u16>,
    pub seconds: u32,
    /// Its end by the clock of this machine: `14:03:20`, with the date if it is not today's.
    pub until: String,
    /// True if each grant is for one connection only.
    pub once: bool,
}

impl Answers {
    pub(super) fn of(report: &ExchangeReport<'_>) -> Answers {
        let overall = match report.code() {
            DONE => Overall::Done,
            PARTLY => Overall::Partly,
            REFUSED => Overall::Refused,
            NO_ANSWER => Overall::NoAnswer,
            _ => Overall::NotSent,
        };
        let kind = report.request.kind;
        let each = report.results.iter().map(|result| Answer::of(kind, result)).collect();
        Answers { overall, each }
    }
}

impl Answer {
    fn of(kind: KnockKind, result: &GatewayResult) -> Answer {
        let outcome = match &result.outcome {
            ExchangeOutcome::Silence => Outcome::Silence(result.knocks),
            ExchangeOutcome::Unreachable(fault) => Outcome::NotSent(fault.clone()),
            ExchangeOutcome::Received(received) => match refusal(kind, result, &received.receipt) {
                Some(refusal) => Outcome::Refused(refusal),
                None if received.receipt.status == Status::Granted => {
                    Outcome::Granted(GrantText::of(received))
                }
                None => Outcome::Closed,
            },
        };
        Answer { gateway: result.gateway, outcome }
    }
}

impl GrantText {
    fn of(received: &ReceivedReceipt) -> GrantText {
        let receipt = &received.receipt;
        let one = receipt.granted.unwrap_or(receipt.observed);
        GrantText {
            address: net(receipt).unwrap_or(one.to_string()),
            ports: ports(receipt),
            tcp_port: tcp_port(receipt, None),
            seconds: receipt.seconds,
            until: clock_time(until(received), Timestamp::now(), &clock::zone()),
            once: receipt.once,
        }
    }
}
