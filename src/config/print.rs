//! Settings as TOML that `native` reads back to the same settings, bare or with a comment on every
//! key. Where the text goes is left to `app`.

use std::path::Path;

use super::{
    DisconnectPolicy, Door, GrantKind, Mode, Service, ServiceCommands, Settings, SourceRule, native,
};
use crate::core::prefix::Span;

/// The effective configuration: every key, nothing else.
pub fn print(settings: &Settings) -> String {
    write(settings, false)
}

/// The same with a comment on every key, as `toctocd init` writes it.
pub fn print_commented(settings: &Settings) -> String {
    write(settings, true)
}

/// Services and doors alone.
pub fn print_doors(settings: &Settings) -> String {
    let mut page = Page { text: String::new(), comments: false };
    settings.services.iter().for_each(|one| service(&mut page, one, one.mode));
    settings.doors.iter().for_each(|one| door(&mut page, one));
    page.text
}

/// A page that grows by sections and keys.
struct Page {
    text: String,
    comments: bool,
}

impl Page {
    fn comment(&mut self, comment: &str) {
        if self.comments {
            comment.lines().for_each(|line| self.line(format!("# {line}").trim_end()));
        }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn section(&mut self, name: &str, comment: &str) {
        if !self.text.is_empty() {
            self.line("");
        }
        self.comment(comment);
        self.line(&format!("[{name}]"));
    }

    fn key(&mut self, key: &str, value: impl Into<toml::Value>, comment: &str) {
        self.comment(comment);
        self.line(&format!("{key} = {}", value.into()));
    }

    /// One bit, as people write masks.
    fn bit(&mut self, key: &str, value: u32, comment: &str) {
        self.comment(comment);
        self.line(&format!("{key} = {value:#x}"));
    }

    /// A key without a value, shown as a comment with an example.
    fn absent(&mut self, key: &str, example: &str, comment: &str) {
        self.comment(comment);
        self.comment(&format!("{key} = {}", toml::Value::from(example)));
    }
}

fn write(settings: &Settings, comments: bool) -> String {
    let mut page = Page { text: String::new(), comments };
    page.comment(
        "toctocd.toml: the gateway's configuration. `toctocd check` reads it and changes nothing;",
    );
    page.comment("`toctocd reload` (or SIGHUP) takes it over, or leaves everything as it was and says what is wrong.");
    page.absent(
        "include",
        "/etc/toctoc/conf.d",
        "\nA directory whose *.toml files, in the order of their names, hold more [service.NAME] and [door.NAME].",
    );
    gateway(&mut page, settings);
    knock(&mut page, settings);
    firewall(&mut page, settings);
    settings.services.iter().for_each(|one| service(&mut page, one, settings.firewall.mode));
    page.comment(COMMANDS);
    settings.doors.iter().filter(|one| one.native).for_each(|one| door(&mut page, one));
    classic(&mut page, settings);
    page.text
}

fn gateway(page: &mut Page, settings: &Settings) {
    let gateway = &settings.gateway;
    page.section("gateway", "Where things lie and who runs them.");
    page.key(
        "key_file",
        path(&gateway.key_file),
        "The gateway's secrets, mode 0600. Never copy it to another gateway.",
    );
    page.key(
        "clients_file",
        path(&gateway.clients_file),
        "Who may knock: one line per client; `toctocd client add` writes it.",
    );
    page.key(
        "state_dir",
        path(&gateway.state_dir),
        "Used timestamps and live grants, durable: a real disk, never a tmpfs, never restored from a backup.",
    );
    page.key(
        "state_on_tmpfs",
        gateway.state_on_tmpfs,
        "true: the state may lie in memory, and a reboot forgets what was used: then only challenges count for a while.",
    );
    page.key(
        "control_socket",
        path(&gateway.control_socket),
        "Where `toctocd status`, `grants` and `reload` reach the running gateway.",
    );
    let user = "The user that the listener runs as. Without this key: `_toctoc`, or else `nobody`.";
    match &gateway.user {
        Some(name) => page.key("user", name.as_str(), user),
        None => page.absent("user", "_toctoc", user),
    }
    page.key(
        "addresses",
        gateway.addresses.clone(),
        "Host names or IP addresses by which clients reach this gateway; profiles carry them.",
    );
}

fn knock(page: &mut Page, settings: &Settings) {
    let knock = &settings.knock;
    page.section("knock", "The sealed knock: one UDP datagram that asks for one grant.");
    page.key(
        "port",
        i64::from(knock.port),
        "UDP port, 1 to 65535. Nothing is bound to it; let it through every firewall before this machine.",
    );
    page.key(
        "interfaces",
        knock.interfaces.clone(),
        "Interfaces to capture on, as `ip link` names them; \"default\" is whichever the default route leads out of now;\n\
         \"any\" alone means all.",
    );
    page.key(
        "silent",
        knock.silent,
        "true: what arrives for the knock port is dropped after we saw it. false: the kernel answers \"port unreachable\"\n\
         as for its neighbours; choose what makes this port look like the others.",
    );
    page.key(
        "max_age",
        i64::from(knock.max_age),
        "How old a knock's timestamp may be, seconds, 1 to 3600.",
    );
    page.key(
        "max_ahead",
        i64::from(knock.max_ahead),
        "How far in the future it may be, seconds, 0 to 3600.",
    );
    page.key(
        "burst",
        i64::from(knock.burst),
        "How many knocks one client may send at once, 1 to 10000.",
    );
    page.key(
        "per_second",
        i64::from(knock.per_second),
        "And how many per second after that, 1 to 10000.",
    );
    page.key(
        "max_grants",
        i64::from(knock.max_grants),
        "Live grants that one client may have at once, 1 to 65535.",
    );
}

fn firewall(page: &mut Page, settings: &Settings) {
    let firewall = &settings.firewall;
    page.section(
        "firewall",
        "How grants meet the firewall: one nftables table of our own; no other rule is ever touched.",
    );
    page.key("table", firewall.table.as_str(), "Name of that table in family inet.");
    page.key("nft", path(&firewall.nft), "The nft program.");
    page.key(
        "mode",
        mode(firewall.mode),
        "Who drops what is not granted. \"guard\": our table does. \"mark\": your own firewall does, because it drops by default,\n\
         and lets in the flows that our table marks; `toctocd check` prints the rule for that.",
    );
    page.bit(
        "mark",
        firewall.mark,
        "The bit of a flow's conntrack mark that says: granted. Choose one that nobody else uses.",
    );
    page.bit(
        "pending_mark",
        firewall.pending_mark,
        "Set beside it while a \"once\" grant waits for the end of the handshake.",
    );
    let addresses: Vec<String> = firewall.break_glass.iter().map(ToString::to_string).collect();
    page.key(
        "break_glass",
        addresses,
        "IP addresses that always pass the guard. Shown in every status; best left empty.",
    );
    page.key(
        "printed",
        path(&firewall.printed),
        "Where the text of `toctocd guard print` lies, if your nftables.conf includes it: you are told when it is out of date.",
    );
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Guard => "guard",
        Mode::Mark => "mark",
    }
}

fn service(page: &mut Page, service: &Service, default: Mode) {
    // Names are of [a-z0-9._-]; a dot would nest, so the name is quoted where it has one.
    let name = service.name.as_str();
    let quoted =
        if name.contains('.') { format!("service.\"{name}\"") } else { format!("service.{name}") };
    if let Some(commands) = &service.commands {
        return by_commands(page, &quoted, service, commands);
    }
    page.section(
        &quoted,
        "Something behind the guard, by the name that knocks use: one section each.",
    );
    let ports: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
    page.key(
        "ports",
        ports,
        "Its ports, 1 to 4, as \"22/tcp\". They are shut to all but granted addresses.",
    );
    let comment = "As in [firewall], for this service alone.";
    if service.mode == default {
        page.absent("mode", mode(default), comment);
    } else {
        page.key("mode", mode(service.mode), comment);
    }
    let form = match service.form {
        GrantKind::Time => "time",
        GrantKind::Once => "once",
    };
    page.key(
        "form",
        form,
        "\"time\": new connections until the time is over. \"once\": one TCP connection per grant.",
    );
    limits(page, service, " Connections that stand live on.");
    source(page, service);
    page.key(
        "grant_prefix",
        if service.span == Span::Net64 { 64_i64 } else { 128 },
        "128: a grant is for one address. 64: of an IPv6 address for its whole /64, where hosts change the lower half as they like:\n\
         then for all in that net, which may be a household, a company's floor or a hotel.",
    );
    challenge(page, service);
    let cut = match service.cut {
        DisconnectPolicy::Never => "never",
        DisconnectPolicy::Revoked => "revoke",
        DisconnectPolicy::Closed => "close",
    };
    page.key(
        "cut",
        cut,
        "Whether connections end with the right to them. \"never\": they live on. \"revoke\": those from the addresses of a client\n\
         who is revoked are cut at once, also of others behind the same address. \"close\": and when a client closes a grant.",
    );
    forward(page, service);
}

/// What a commented file says of a kind of service that it does not have.
const COMMANDS: &str = "
A service of commands, for what our own table cannot open: an ipset, another firewall, a cloud. It has no ports, and no shell reads it.
[service.vpn]
start = [\"/usr/sbin/ipset\", \"add\", \"vpn\", \"%IP%\"]
stop = [\"/usr/sbin/ipset\", \"del\", \"vpn\", \"%IP%\"]";

fn by_commands(page: &mut Page, name: &str, service: &Service, commands: &ServiceCommands) {
    page.section(name, "A service of commands, by the name that knocks use.");
    page.key(
        "start",
        commands.start.clone(),
        "The program and its arguments, run as root by no shell, with %IP% as the granted address: once for all who hold a grant for it.\n\
         The receipt waits until it has ended; after 5 seconds it is killed and nothing is granted.",
    );
    page.key(
        "stop",
        commands.stop.clone(),
        "Run when the last of them has none any more, after a failed start too.",
    );
    limits(page, service, "");
    source(page, service);
    challenge(page, service);
}

fn limits(page: &mut Page, service: &Service, also: &str) {
    let seconds = format!("How long a grant lasts when the knock does not say, 1 to 86400.{also}");
    page.key("seconds", i64::from(service.seconds), &seconds);
    page.key(
        "max_seconds",
        i64::from(service.max_seconds),
        "The most that a knock may ask for, up to 604800.",
    );
    page.key(
        "max_grants",
        i64::from(service.max_grants),
        "Live grants over all clients, 1 to 65535.",
    );
}

fn challenge(page: &mut Page, service: &Service) {
    page.key(
        "challenge",
        service.challenge,
        "true: the knock must carry a challenge that the gateway gave a moment ago (one round trip more).",
    );
}

fn source(page: &mut Page, service: &Service) {
    let source = match &service.source {
        SourceRule::Bound => toml::Value::from("bound"),
        SourceRule::Observed => toml::Value::from("observed"),
        SourceRule::Within(prefixes) => {
            prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().into()
        }
    };
    page.key(
        "source",
        source,
        "\"bound\": the address that is granted is signed by the client and must be the packet's source.\n\
         \"observed\": whatever address the packet came from. Whoever is on the path can change that: avoid it.\n\
         [\"203.0.113.0/24\", \"2001:db8::/48\"]: the signed address may also be any of these, wherever the packet came from, to knock by\n\
         one family or carrier address and connect by another. Whoever has a client's key can then open for any of them.",
    );
}

fn forward(page: &mut Page, service: &Service) {
    let leads = "An inner host to which granted flows to the one port are led (DNAT), or a list with one of each family. This machine must\n\
        forward packets (sysctl net.ipv4.ip_forward), its own firewall must let them through, and the inner host must answer by this machine.";
    let masked = "true: the inner host sees this machine as the sender. For one that has no way back through this machine; its log is the poorer.";
    match &service.forward {
        Some(forward) => {
            let list: Vec<String> = forward.to.iter().map(ToString::to_string).collect();
            page.key("forward", list, leads);
            page.key("masquerade", forward.masquerade, masked);
        }
        None => {
            page.absent("forward", "192.168.1.10:3389", leads);
            page.key("masquerade", false, masked);
        }
    }
}

fn door(page: &mut Page, door: &Door) {
    page.section(
        &format!("door.{}", toml::Value::from(door.name.as_str())),
        "A classic door, by the name that its log lines have.",
    );
    let steps: Vec<String> = door.sequence.iter().map(|step| step.notation()).collect();
    match &door.one_time_sequences {
        Some(file) => page.key(
            "one_time_sequences",
            path(file),
            "A file of sequences, one a line, each of which counts once.",
        ),
        None => page.key(
            "sequence",
            steps,
            "What to hit, in order: \"7001/tcp\", \"7002/udp\", \"icmp:64\".",
        ),
    }
    page.key(
        "seq_timeout",
        door.seq_timeout,
        "Seconds from the first hit to the last, 1 to 86400.",
    );
    page.key(
        "tcpflags",
        native::flag_words(door.flags),
        "Flags that a TCP hit must have, or with ! must not have; [] = any.",
    );
    if let Some(target) = &door.target {
        page.key(
            "target",
            target.as_str(),
            "The destination that counts, in place of our own addresses.",
        );
    }
    page.key(
        "tolerate_duplicates",
        door.tolerate_duplicates,
        "true: the hit that was just right may be repeated.",
    );
    page.key(
        "pause_after",
        i64::from(door.pause_after),
        "Seconds after an opening in which the same source cannot begin again.",
    );
    if let Some(service) = &door.service {
        page.key(
            "service",
            service.as_str(),
            "Granted to the knocker, as long as that service says.",
        );
    }
    let commands = [
        ("start_command", &door.start_command),
        ("start_command_6", &door.start_command_6),
        ("stop_command", &door.stop_command),
        ("stop_command_6", &door.stop_command_6),
    ];
    for (key, command) in commands {
        if let Some(command) = command {
            page.key(key, command.as_str(), "Run by /bin/sh; %IP% is the knocker's address.");
        }
    }
    if door.start_command.is_some() || door.start_command_6.is_some() {
        page.key(
            "cmd_timeout",
            door.cmd_timeout,
            "Seconds from the end of the start command to the stop command.",
        );
    }
}

fn classic(page: &mut Page, settings: &Settings) {
    let comment = "A knockd.conf whose doors are served too. A classic sequence crosses the network in the clear.";
    match &settings.classic {
        Some(file) => {
            page.section("classic", "Classic port sequences.");
            page.key("knockd_conf", path(file), comment);
        }
        None if page.comments => {
            page.section("classic", "Classic port sequences.");
            page.absent("knockd_conf", "/etc/knockd.conf", comment);
        }
        None => {}
    }
}

fn path(path: &Path) -> String {
    // Paths were read from TOML, which is UTF-8: nothing is lost.
    path.to_string_lossy().into_owned()
}
