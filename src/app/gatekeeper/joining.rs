//! Joining: knocks of invited people that wait for the file `joined`. One task at a time reads and
//! changes it. See `core::joining` for the answers.
//!
//! A join and a reload both change the clients in force, so neither begins while the other is under
//! way. The mark of the knock is durable before the task begins, and the file before the answer: if
//! the process ends in between, the client asks again and is told what the file says.

use crate::core::event::EventKind;
use crate::edge::log::LogEvent;
use std::collections::VecDeque;

use super::Gatekeeper;
use super::events::{Lane, ListenerId, Task};
use crate::app::joined::{ClientFiles, JoinDone, JoinTask};
use crate::core::joining::{Asking, JoinAnswer};
use crate::core::knock::Status;
use crate::core::policy::Applicant;
use crate::core::public_key::PublicKey;
use crate::core::reply::Reply;
use crate::core::types::{Fault, Now, Reject, SECOND};
use crate::keys::public::show_fingerprint;

/// The most knocks that wait. Each invitation has a low rate of its own, so an honest crowd is
/// served before it is full.
const MOST: usize = 64;

#[derive(Default)]
pub(super) struct Joining {
    waiting: VecDeque<WaitingApplicant>,
    /// The one whose task is under way.
    asked: Option<WaitingApplicant>,
}

/// Somebody who waits for an answer.
struct WaitingApplicant {
    listener: ListenerId,
    ticket: u64,
    applicant: Applicant,
}

impl Joining {
    /// True while a task may change who is a client.
    pub(super) fn is_writing(&self) -> bool {
        self.asked.is_some()
    }
}

impl Gatekeeper {
    /// Lets an applicant wait for the file.
    pub(super) fn join_later(
        &mut self, now: Now, listener: ListenerId, ticket: u64, applicant: Applicant,
    ) {
        if self.joining.waiting.len() >= MOST {
            let text = "more people ask to join at once than can be written down: they ask again";
            self.out.tell_at_most("joining", 60, LogEvent::new(EventKind::Limit, text));
            self.ends.reject(Reject::Quota);
            return self.send_verdict(now, listener, ticket, applicant.reply());
        }
        self.joining.waiting.push_back(WaitingApplicant { listener, ticket, applicant });
    }

    /// Starts the next task, if somebody waits and nothing else changes the clients.
    pub(super) fn start_joining(&mut self, now: Now) {
        if self.joining.is_writing() || !self.reload.is_idle() || !self.tasks.is_free(Lane::Joining)
        {
            return;
        }
        let Some(next) = self.joining.waiting.pop_front() else { return };
        let invitation = next.applicant.reply().client;
        let key = next.applicant.key().clone();
        let task = JoinTask {
            files: ClientFiles::of(self.in_force.settings()),
            asking: Asking {
                invitation,
                new_id: self.in_force.config().keys.master.joined_id(invitation, &key.ed25519),
                key,
                // So that a clock that was set back opens no invitation again.
                now: self.replay.latest(now).0 / SECOND,
            },
            clients: self.in_force.clients().clone(),
        };
        self.joining.asked = Some(next);
        self.tasks.start(now, Task::Join(Box::new(task)), &mut self.out);
    }

    /// Answers whoever asked. The new client is put in force before it hears of it.
    pub(super) fn join_done(&mut self, now: Now, result: Result<JoinDone, Fault>) {
        let Some(WaitingApplicant { listener, ticket, applicant }) = self.joining.asked.take()
        else {
            return;
        };
        let mut reply = *applicant.reply();
        match result {
            Ok(JoinDone { answer, clients, is_new }) => {
                self.log_join(&reply, applicant.key(), &answer, is_new);
                self.set_clients(now, clients);
                if let JoinAnswer::Enrolled(id) = answer
                    && let Some(client) = self.in_force.clients().get(id)
                {
                    reply.welcome = self.in_force.config().keys.welcome(reply.client, client);
                }
                reply.status = match answer {
                    JoinAnswer::Enrolled(_) if reply.welcome.is_some() => Status::Enrolled,
                    JoinAnswer::Pending => Status::Pending,
                    JoinAnswer::Taken(_) => Status::Taken,
                    // Enrolled by the file, and barred since an admin revoked that client.
                    JoinAnswer::Enrolled(_) | JoinAnswer::Denied | JoinAnswer::Gone => {
                        Status::Denied
                    }
                };
            }
            Err(fault) => {
                let event = LogEvent::new(EventKind::Joined, format!("nobody joined: {fault}"));
                self.out.tell(event.of(reply.id()).failed());
                self.ends.reject(Reject::State);
            }
        }
        self.send_verdict(now, listener, ticket, &reply);
    }

    /// Logs the answer in words for the admin.
    fn log_join(&mut self, reply: &Reply, key: &PublicKey, answer: &JoinAnswer, is_new: bool) {
        let (name, from) = (self.in_force.client_name(reply.client), reply.source);
        let shown = show_fingerprint(&key.fingerprint());
        let (kind, text) = match answer {
            JoinAnswer::Enrolled(_) if is_new => {
                (EventKind::Joined, format!("{name}: joined with {shown}, from {from}"))
            }
            JoinAnswer::Enrolled(_) => {
                (EventKind::Joined, format!("{name}: told again that it has joined, from {from}"))
            }
            JoinAnswer::Pending if is_new => {
                let text = format!(
                    "{name}: {shown} asks to join, from {from}; if that is {name}'s key: toctocd \
                     client approve {name} {shown}"
                );
                (EventKind::Joined, text)
            }
            // Its client asks each half minute.
            JoinAnswer::Pending => return,
            JoinAnswer::Taken(first) => {
                let first = show_fingerprint(&first.fingerprint());
                let text = format!(
                    "ALARM: two keys had the invitation of {name}: {first} asked first, {shown} now, \
                     from {from}. Somebody else has read the line: toctocd client revoke {name}, and \
                     invite again by another way"
                );
                (EventKind::Alarm, text)
            }
            JoinAnswer::Denied => {
                let text = format!(
                    "{name}: {shown} may not join, from {from}: the invitation is for another key, \
                     or this key is enrolled already"
                );
                (EventKind::Refused, text)
            }
            JoinAnswer::Gone => {
                (EventKind::Refused, format!("{name}: its invitation is over, asked from {from}"))
            }
        };
        let event = LogEvent::new(kind, text).of(reply.id()).client(name).address(from);
        let event = event.reason(reason(answer));
        match kind {
            EventKind::Alarm => self.out.tell_of_client("taken", reply.client, event),
            _ => self.out.tell(event),
        }
    }
}

/// The answer in one word.
fn reason(answer: &JoinAnswer) -> &'static str {
    match answer {
        JoinAnswer::Enrolled(_) => "enrolled",
        JoinAnswer::Pending => "pending",
        JoinAnswer::Taken(_) => "taken",
        JoinAnswer::Denied => "denied",
        JoinAnswer::Gone => "gone",
    }
}
