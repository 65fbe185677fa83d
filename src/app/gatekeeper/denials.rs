//! The limit of a client's own line that denies it something, for the log and for an admin. The
//! client is not told which.

use super::Gatekeeper;
use crate::core::grants::Holder;
use crate::core::hours::Hours;
use crate::core::limits::Limited;
use crate::core::policy::Policy;
use crate::core::reply::Reply;
use crate::core::types::{Now, Source};

impl Gatekeeper {
    pub(super) fn why_denied(&self, now: Now, reply: &Reply) -> String {
        let latest = self.replay.latest(now);
        let client = self.policy.clients().get(reply.client);
        match client.and_then(|one| one.limits().limited(now.wall, latest, reply.address)) {
            Some(limited) => {
                limit_words(&self.policy, limited, Holder::Client(reply.client), reply.address)
            }
            None => "not allowed to this client".to_owned(),
        }
    }
}

pub(super) fn limit_words(
    policy: &Policy, limited: Limited, holder: Holder, address: Source,
) -> String {
    let client = match holder {
        Holder::Client(id) => policy.clients().get(id),
        Holder::Door(_) => None,
    };
    let hours = client.and_then(|client| client.limits().hours.as_ref()).map_or("", Hours::text);
    match limited {
        Limited::NotYet => "before the `not-before` of its line".to_owned(),
        Limited::Hours => format!("outside of its hours ({hours})"),
        Limited::From => format!("`from` of its line does not list {address}"),
    }
}
