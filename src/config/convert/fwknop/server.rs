//! fwknopd.conf: what of it bears on the stanzas, and what each of its other settings becomes.

use super::reader::{Setting, Stanza, is_yes, lines, number};
use super::{Migration, Server};
use crate::config::defaults;

impl Server {
    /// The last setting of this key. A firewalld build has its own names for some.
    pub(super) fn get(&self, key: &str) -> Option<&Setting> {
        let other = key.replace("_IPT_", "_FIREWD_");
        self.settings.iter().rev().find(|setting| setting.key == key || setting.key == other)
    }
}

impl Migration<'_> {
    /// Reads a fwknopd.conf, and says what becomes of each of its settings.
    pub(super) fn server(&mut self, path: &str, text: &str) {
        for line in lines(path, text) {
            match line {
                Ok(setting) => {
                    self.setting(&setting);
                    self.server.settings.push(setting);
                }
                Err(mistake) => self.converter.note(format!("{mistake}: fwknopd ignores it")),
            }
        }
    }

    /// Warns if a client could choose where its port leads, which only stanzas with FORCE_NAT do not
    /// let it.
    pub(super) fn free_targets(&mut self, stanzas: &[Stanza]) {
        if stanzas.iter().all(|stanza| stanza.get("FORCE_NAT").is_some()) {
            return;
        }
        for (key, what) in [
            (
                "ENABLE_IPT_FORWARDING",
                "a client could name an inner host itself (fwknop -N): here each inner host is a \
                 service with `forward`, and only FORCE_NAT makes one",
            ),
            (
                "ENABLE_IPT_LOCAL_NAT",
                "a client could have a port translated to another one of this machine: open the \
                 port that the service listens on",
            ),
        ] {
            let found = self.server.get(key).filter(|setting| is_yes(&setting.value)).cloned();
            if let Some(Setting { key, place, .. }) = found {
                self.warn(&place, &key, what);
            }
        }
    }

    fn setting(&mut self, setting: &Setting) {
        let Setting { key, value, place } = setting;
        let is_on = is_yes(value);
        match key.as_str() {
            "ENABLE_IPT_OUTPUT" | "ENABLE_FIREWD_OUTPUT" if is_on => {
                self.warn(place, key, "let the answers of your services out by a rule of your own");
            }
            "PCAP_INTF" => {
                let what = format!(
                    "toctocd listens on all interfaces; for this one alone, write interfaces = \
                     [{value:?}] under [knock]"
                );
                self.note(place, key, &what);
            }
            "MAX_SPA_PACKET_AGE" => {
                let what = format!(
                    "a knock may be {} s old (max_age under [knock]); a client with a wrong clock \
                     is asked again",
                    defaults::knock().max_age
                );
                self.note(place, key, &what);
            }
            "PCAP_FILTER" | "UDPSERV_PORT" | "TCPSERV_PORT" => {
                let what = format!(
                    "knocks come to UDP port {} (port under [knock])",
                    self.converter.existing.knock.port
                );
                self.note(place, key, &what);
            }
            "ENABLE_TCP_SERVER" | "ENABLE_SPA_OVER_HTTP" | "ENABLE_X_FORWARDED_FOR" if is_on => {
                self.leave_out(format!("{place}: {key}: knocks come by UDP only"));
            }
            "ENABLE_SPA_PACKET_AGING" | "ENABLE_DIGEST_PERSISTENCE" if !is_on => {
                self.note(place, key, "a knock counts once, and only while it is new");
            }
            "ENABLE_EXTERNAL_CMDS" if is_on => {
                let what = "commands that open for everybody: give a service start and stop";
                self.leave_out(format!("{place}: {key}: {what}"));
            }
            "VERBOSE" if number(value) == 0 => {}
            key => {
                if let Some(what) = UNNEEDED.iter().find(|(prefix, _)| key.starts_with(prefix)) {
                    self.note(place, key, what.1);
                }
            }
        }
    }
}

/// Settings that have no place here, by the beginning of their key, and why.
const UNNEEDED: [(&str, &str); 14] = [
    ("IPT_", "toctocd has a table of its own, and changes no chain of yours"),
    ("FIREWD_", "toctocd has a table of its own, and changes no chain of yours"),
    ("FLUSH_", "toctocd has a table of its own: grants end on time whatever happens to it"),
    ("IPFW_", "there is no ipfw here: toctocd uses nftables"),
    ("PF_", "there is no pf here: toctocd uses nftables"),
    ("RULES_CHECK_", "the kernel ends each grant itself"),
    ("SYSLOG_", "toctocd writes to standard error; its unit passes that to the journal"),
    ("VERBOSE", "toctocd writes one line for each event"),
    ("ENABLE_DESTINATION_RULE", "a grant opens its ports at every address of this machine"),
    ("ENABLE_RULE_PREPEND", "toctocd has a table of its own, and changes no chain of yours"),
    ("EXIT_AT_INTF_DOWN", "an interface that is away is waited for"),
    ("BLACKLIST", "no network is shut out: without a key a knock opens nothing"),
    ("CMD_EXEC_TIMEOUT", "no client names a command"),
    ("ACCESS_", "name the access.conf to convert on the command line"),
];
