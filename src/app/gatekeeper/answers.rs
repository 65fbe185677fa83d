//! What an admin is told over the control socket.
//! How it is shown is left to `app::admin`.

use std::collections::BTreeMap;

use super::Gatekeeper;
use super::upkeep::suspect_words;
use crate::app::admin::{GatewayStatus, GrantLine};
use crate::core::service::{Client, GrantKind};
use crate::core::types::{Counters, Fault, Now, Reject};
use crate::edge::control::{ControlRequest, ControlResponse};
use crate::edge::log::{clock_time, date_time};

impl Gatekeeper {
    /// Serves whoever has asked something.
    pub(super) fn serve_control(&mut self, now: Now) {
        // The socket is lent out, so that the answer may use all the rest.
        let Some(mut control) = self.control.take() else { return };
        for (session, request) in control.requests(now.boot) {
            let response = self.answer(now, &request);
            control.reply(session, &response);
        }
        self.control = Some(control);
    }

    fn answer(&mut self, now: Now, command: &ControlRequest) -> ControlResponse {
        let value = match command {
            ControlRequest::Status => serde_json::to_value(self.status(now)),
            ControlRequest::Grants => serde_json::to_value(self.grant_lines(now)),
            ControlRequest::Reload => {
                let outcome = self.reload(now);
                return self.said_or(outcome, "not reloaded");
            }
            ControlRequest::GuardOn => {
                let outcome = self.guard_on();
                return self.said_or(outcome, "the guard is not up");
            }
            ControlRequest::GuardOff => {
                let outcome = self.guard_off();
                return self.said_or(outcome, "the guard was left as it is");
            }
            ControlRequest::Reinitialise => {
                let outcome = self.reinitialise(now);
                return self.said_or(outcome, "not re-initialised");
            }
        };
        value.map_or_else(|e| Fault::new(e.to_string(), "").into(), ControlResponse::Ok)
    }

    /// Says to the log what the admin is told.
    fn said_or(&mut self, outcome: Result<String, Fault>, not: &str) -> ControlResponse {
        match outcome {
            Ok(said) => {
                self.say(&said);
                ControlResponse::Ok(serde_json::json!({ "said": said }))
            }
            Err(fault) => {
                self.say(&format!("{not}: {fault}"));
                fault.into()
            }
        }
    }

    fn status(&mut self, now: Now) -> GatewayStatus {
        let settings = &self.loaded.settings;
        let suspect = self.replay.challenge_reason(now);
        GatewayStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since: date_time(self.started.wall),
            knock_port: settings.knock.port,
            interfaces: self.child.iter().flat_map(|child| child.interfaces.clone()).collect(),
            guard: self.firewall.guard_is_up().unwrap_or(false),
            guard_off: self.firewall.is_disabled(),
            granted: self.outside.granted,
            last_granted: self.outside.last.clone(),
            state: if self.broken {
                "NOT WRITABLE: nothing opens".to_owned()
            } else {
                self.found.clone()
            },
            clock: suspect.map_or_else(|| "sure".to_owned(), suspect_words),
            ahead: self.ahead(now),
            degraded: self.degraded(),
            break_glass: settings.firewall.break_glass.iter().map(ToString::to_string).collect(),
            services: settings.services.len(),
            clients: self.loaded.clients.len(),
            doors: settings.doors.len(),
            grants: self.grants.list().count(),
            packets: self.heard.past.1.saturating_add(self.heard.present.1),
            rejected: self.rejected(),
        }
    }

    fn ahead(&self, now: Now) -> Vec<(String, String)> {
        let until: BTreeMap<_, _> = self.replay.ahead(now).collect();
        let line = |client: &Client| {
            until.get(&client.id).map(|until| (client.name.clone(), date_time(*until)))
        };
        self.loaded.clients.iter().filter_map(line).collect()
    }

    /// What does not work here, or not now.
    pub(super) fn degraded(&self) -> Vec<String> {
        let Some(child) = &self.child else {
            return vec!["no listener runs: no knock is heard".to_owned()];
        };
        let rights = self.all_rights.then(|| super::rights::ALL_KEPT.to_owned());
        let deaf = child
            .missing
            .iter()
            .map(|name| format!("interface {name} is not there: no knock is heard on it"));
        let lost = (self.heard.lost > 0)
            .then(|| format!("{} packets were lost for want of room", self.heard.lost));
        child.degraded.iter().cloned().chain(rights).chain(deaf).chain(lost).collect()
    }

    /// What came to nothing, in both processes.
    fn rejected(&self) -> Vec<(String, u64)> {
        let counters: [&Counters; 3] = [&self.counters, &self.heard.past.0, &self.heard.present.0];
        let sum =
            |reject: Reject| counters.iter().map(|one| one.of(reject)).fold(0, u64::saturating_add);
        let all = Reject::ALL.into_iter().map(|reject| (reject.name().to_owned(), sum(reject)));
        all.filter(|(_, number)| *number > 0).collect()
    }

    fn grant_lines(&self, now: Now) -> Vec<GrantLine> {
        let line = |live: &crate::core::grants::ActiveGrant| GrantLine {
            client: self.holder(live.key.holder),
            service: live.key.service.to_string(),
            address: live.key.who(),
            ports: live.ports.iter().flatten().map(ToString::to_string).collect(),
            form: match live.form {
                GrantKind::Time => "time".to_owned(),
                GrantKind::Once => "once".to_owned(),
            },
            until: clock_time(now.wall.plus(live.seconds_left(now))),
            seconds_left: u64::from(live.seconds_left(now)),
        };
        self.grants.list().map(line).collect()
    }
}
