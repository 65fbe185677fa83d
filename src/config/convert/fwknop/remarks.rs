//! What of a stanza is no right: keys, conditions that need no place here, and commands of clients.

use super::fields::{Network, networks};
use super::reader::{Setting, is_yes};
use super::{Migration, Rights};

/// Settings of a stanza that have been carried over, or that no longer need anything.
const KNOWN: [&str; 26] = [
    "SOURCE",
    "DESTINATION",
    "OPEN_PORTS",
    "RESTRICT_PORTS",
    "FW_ACCESS_TIMEOUT",
    "MAX_FW_TIMEOUT",
    "ENCRYPTION_MODE",
    "HMAC_DIGEST_TYPE",
    "ACCESS_EXPIRE",
    "ACCESS_EXPIRE_EPOCH",
    "ENABLE_CMD_EXEC",
    "ENABLE_CMD_SUDO_EXEC",
    "CMD_EXEC_USER",
    "CMD_EXEC_GROUP",
    "CMD_SUDO_EXEC_USER",
    "CMD_SUDO_EXEC_GROUP",
    "CMD_CYCLE_OPEN",
    "CMD_CYCLE_CLOSE",
    "CMD_CYCLE_TIMER",
    "REQUIRE_SOURCE_ADDRESS",
    "REQUIRE_SOURCE",
    "FORCE_NAT",
    "FORCE_SNAT",
    "FORCE_MASQUERADE",
    "FORWARD_ALL",
    "DISABLE_DNAT",
];

impl Migration<'_> {
    /// What of a stanza is no right, and has no place here.
    pub(super) fn remarks(&mut self, rights: &Rights<'_>) {
        let mut keys = Vec::new();
        for setting in &rights.stanza.settings {
            let Setting { key, value, place } = setting;
            match key.as_str() {
                "KEY" | "KEY_BASE64" | "HMAC_KEY" | "HMAC_KEY_BASE64" | "%include_keys" => {
                    keys.push(key.as_str());
                }
                key if key.starts_with("GPG_") => keys.push(key),
                "ENABLE_CMD_EXEC" | "ENABLE_CMD_SUDO_EXEC" if is_yes(value) => {
                    let what = "a client names a service, never a command: make a service with \
                                start and stop for each command that is needed";
                    self.leave_out(format!("{place}: {key}: {what}"));
                }
                "DESTINATION"
                    if networks(value).is_none_or(|all| !all.contains(&Network::None)) =>
                {
                    let what = "knocks count at every address of this machine: to have them at \
                                one, set interfaces under [knock]";
                    self.warn(place, key, what);
                }
                "REQUIRE_USERNAME" => {
                    let what =
                        format!("the key alone says who knocks; the client is {}", rights.name);
                    self.note(place, key, &what);
                }
                "REQUIRE_SOURCE_ADDRESS" | "REQUIRE_SOURCE" if !is_yes(value) => {
                    let what = "a knock names its address always, and must come from it";
                    self.note(place, key, what);
                }
                key if !KNOWN.contains(&key) && !key.starts_with(['#', ';']) => {
                    self.note(place, key, "fwknopd does not know it, and ignores it");
                }
                _ => {}
            }
        }
        keys.sort_unstable();
        keys.dedup();
        let what = format!("no key is carried over: {} makes a new one to join", rights.name);
        self.note(rights.stanza.place(), &keys.join(", "), &what);
    }
}
