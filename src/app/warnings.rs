//! Warnings about settings that are allowed but unwise: one sentence each, with a remedy. See
//! `core::door::weakness` for weak doors, and `app::load` for refused settings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::load::GatewayConfig;
use super::output::count;
use super::{interfaces, printed_guard, programs};
use crate::config::Settings;
use crate::config::convert::useless_commands;
use crate::core::address::{AddressScope, reach};
use crate::core::door::Door;
use crate::core::door::weakness::{DoorContext, WHOLE_ECHO, Weakness, badly_placed, weaknesses};
use crate::core::types::{Port, ServiceName};
use crate::edge::{addresses, names, proc_net, routes};

/// All warnings about `loaded` on this machine in its current state.
pub fn warnings_here(loaded: &GatewayConfig) -> Vec<String> {
    // With 100,000 connections the kernel takes its time for this list.
    let listening = match loaded.settings.doors.is_empty() {
        true => BTreeSet::new(),
        false => proc_net::listening(),
    };
    let mut all = warnings(loaded, &listening);
    all.extend(unknown_services(loaded));
    all.extend(interfaces::absent(&loaded.settings));
    let own: Vec<IpAddr> =
        addresses::own().unwrap_or_default().into_iter().map(|own| own.address).collect();
    all.extend(leads_nowhere(&loaded.settings, proc_net::forwarding(), &own));
    all.extend(programs::missing(&loaded.settings));
    all.extend(printed_guard::problem(&loaded.settings));
    if proc_net::in_container() {
        let routers = routes::routers(&routes::all().unwrap_or_default());
        all.extend(behind_a_proxy(&own, !routers.is_empty()));
    }
    all
}

/// The warnings about `loaded` on a machine whose programs listen on `listening`.
fn warnings(loaded: &GatewayConfig, listening: &BTreeSet<Port>) -> Vec<String> {
    let settings = &loaded.settings;
    let around = DoorContext {
        services: &settings.services,
        sealed: loaded.clients.services(),
        knock_port: settings.knock.port,
        listening,
    };
    let found =
        weaknesses(&settings.doors).into_iter().chain(badly_placed(&settings.doors, &around));
    let mut warnings: Vec<String> =
        found.map(|(door, weakness)| sentence(door, &weakness)).collect();
    for door in
        settings.doors.iter().filter(|door| door.seq_timeout <= 0 && door.sequence.len() > 1)
    {
        warnings.push(format!(
            "door [{}] can never open: its seq_timeout is {}",
            door.name, door.seq_timeout
        ));
    }
    warnings.extend(settings.doors.iter().filter(|door| door.sequence.is_empty()).map(stays_shut));
    for door in &settings.doors {
        let services = &settings.services;
        if let Some(useless) = useless_commands(door, services, &names::port_named) {
            warnings.push(format!(
                "door [{}] at {}: the guard may make `{}` useless: without a grant it drops {}; \
                 give the door a `service` in place of commands if it should open that",
                door.name, door.place, useless.first, useless.ports
            ));
        }
    }
    if !settings.unused_options.is_empty() {
        warnings.push(format!(
            "[options] of knockd.conf have no effect here, only under the name knockd: {}",
            settings.unused_options.join(", ")
        ));
    }
    if !settings.firewall.break_glass.is_empty() {
        warnings.push("break_glass addresses always pass the guard".to_owned());
    }
    warnings
}

/// Services that clients name and nobody configured: removing a service must not make everybody
/// else wait until each client's line is changed.
fn unknown_services(loaded: &GatewayConfig) -> Vec<String> {
    let mut unknown: BTreeMap<ServiceName, Vec<&str>> = BTreeMap::new();
    let is_known = |name| loaded.settings.services.iter().any(|known| known.name == name);
    // There may be 100,000 clients.
    if loaded.clients.services().iter().all(|name| is_known(*name)) {
        return Vec::new();
    }
    for client in loaded.clients.iter() {
        for service in client.services.iter().copied() {
            if !is_known(service) {
                unknown.entry(service).or_default().push(&client.name);
            }
        }
    }
    let mut warnings = Vec::new();
    for (service, names) in unknown {
        let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        let more = names.len().saturating_sub(SHOWN);
        let more =
            if more > 0 { format!(" and {}", count(more, "more client")) } else { String::new() };
        warnings.push(format!(
            "service {service} is not configured, but the clients file names it for {shown}{more}: they \
             cannot open it. Configure it, or remove it there"
        ));
    }
    warnings
}

/// The most clients that a warning names.
const SHOWN: usize = 5;

/// The reason why a door with one-time sequences has no current sequence.
fn stays_shut(door: &Door) -> String {
    let file = door.one_time_sequences.as_deref().unwrap_or("".as_ref()).display();
    let why = match door.later_steps.is_empty() {
        true => format!("no sequence is left in {file}; append some"),
        // The file has usable lines, but the next one is the shipped sequence.
        false => format!("{NEXT_IS_SHIPPED} in {file}; put a # before that line"),
    };
    format!("door [{}] stays shut: {why}, then `toctocd reload`", door.name)
}

/// The reason why a door stays shut although its file has sequences left.
pub const NEXT_IS_SHIPPED: &str =
    "the sequence that knockd ships, which every scanner knows, is the next one";

/// Services with an inner host that is this machine, or over an address family, IPv4 or IPv6, that
/// this machine does not forward.
fn leads_nowhere(settings: &Settings, forwarding: [bool; 2], own: &[IpAddr]) -> Vec<String> {
    let families = [(false, "net.ipv4.ip_forward"), (true, "net.ipv6.conf.all.forwarding")];
    let mut warnings = Vec::new();
    for service in &settings.services {
        let to = service.forward.iter().flat_map(|forward| &forward.to);
        for to in to.filter(|to| own.contains(&to.ip())) {
            warnings.push(format!(
                "service {} forwards to {to}, an address of this machine: nobody gets in. `forward` \
                 is for other machines; name the port in `ports` and leave `forward` out",
                service.name
            ));
        }
        for ((v6, sysctl), _) in
            families.into_iter().zip(forwarding).filter(|(_, forwarding)| !forwarding)
        {
            if let Some(to) = service.forward.as_ref().and_then(|forward| forward.target(v6)) {
                let name = service.name;
                warnings.push(format!(
                    "service {name} forwards to {to}, but this machine does not forward packets: run \
                     `sysctl -w {sysctl}=1`"
                ));
            }
        }
    }
    warnings
}

/// The warning for a container whose addresses are private and whose host is its router.
fn behind_a_proxy(own: &[IpAddr], has_router: bool) -> Option<String> {
    if !has_router || own.iter().any(|ip| reach(*ip) == AddressScope::Global) {
        return None;
    }
    let text = "this is a container: if a proxy publishes its ports (docker-proxy, rootlesskit, \
        kube-proxy), everybody arrives from one address, and one grant is for everybody. Use the \
        host's network, or make sure that `toctoc probe` from outside shows the client's own address";
    Some(text.to_owned())
}

fn sentence(door: &Door, weakness: &Weakness) -> String {
    let about = match weakness {
        Weakness::Shipped => {
            "it has the sequence that knockd ships: every scanner knows it, so choose your own"
                .to_owned()
        }
        Weakness::Tutorial => {
            "it has a sequence as tutorials show them: guessers try it first, so choose ports at random"
                .to_owned()
        }
        Weakness::Short(1) => {
            "a sequence of one step is found by any scan; use at least three".to_owned()
        }
        Weakness::Short(steps) => {
            format!("a sequence of {steps} steps is hit by a scan by chance; use at least three")
        }
        Weakness::InOrder(proto) => {
            format!(
                "a {} scan that counts up or down opens it; mix the order, or tcp with udp",
                proto.name().to_ascii_uppercase()
            )
        }
        Weakness::Twin(other) => {
            format!("it has the same sequence as door [{other}]: one knock opens both")
        }
        Weakness::Contains(other) => {
            format!(
                "its sequence begins with that of door [{other}], so it opens that door too; choose \
                 another beginning"
            )
        }
        Weakness::Guarded(port, service) => {
            format!("its step {port} is a port of service {service}: {BUSY}")
        }
        Weakness::KnockPort(port) => {
            format!("its step {port} is the port of the sealed knock: {BUSY}")
        }
        Weakness::Listening(port) => {
            format!("its step {port} is a port that a program here listens on: {BUSY}")
        }
        Weakness::Fragments(size) => format!(
            "its step icmp:{size} does not fit into one packet on most links, and fragments do not \
             count; use at most icmp:{WHOLE_ECHO}"
        ),
        Weakness::StopsAtOnce => format!(
            "has a negative Cmd_Timeout, or one above {}: its stop command runs at once, where knockd would \
             never run it",
            i32::MAX
        ),
        Weakness::InTheClear(service) => format!(
            "it opens {service} by a sequence in cleartext, although clients have sealed knocks for \
             it: anybody who sees the sequence can repeat it. Keep it only if you need the fallback"
        ),
    };
    format!("door [{}] at {}: {about}", door.name, door.place)
}

/// The reason why a step should use an otherwise unused port.
const BUSY: &str = "other traffic to it starts and breaks attempts; choose an unused port";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::native;
    use crate::core::types::Proto;
    use crate::core::types::ServiceName;
    use crate::keys::gateway::GatewayFile;

    fn loaded(doors: &str) -> GatewayConfig {
        let text = format!("[service.ssh]\nports = [\"22/tcp\"]\n{doors}");
        GatewayConfig {
            settings: native::parse("t.toml", &text).unwrap(),
            keys: GatewayFile::generate(20_513, crate::edge::entropy::fill).unwrap(),
            clients: Default::default(),
        }
    }

    #[test]
    fn every_weakness_is_one_sentence_about_its_door_with_what_to_do() {
        let (port, ssh) =
            (Port { proto: Proto::Tcp, number: 22 }, ServiceName::new("ssh").unwrap());
        let other = || "other".to_owned();
        for (weakness, said) in [
            (Weakness::Shipped, "choose your own"),
            (Weakness::Tutorial, "choose ports at random"),
            (Weakness::Short(1), "at least three"),
            (Weakness::Short(2), "a sequence of 2 steps"),
            (Weakness::InOrder(Proto::Udp), "a UDP scan that counts up or down opens it"),
            (Weakness::Twin(other()), "the same sequence as door [other]"),
            (Weakness::Contains(other()), "begins with that of door [other]"),
            (
                Weakness::Guarded(port, ssh),
                "its step 22/tcp is a port of service ssh: other traffic to it",
            ),
            (Weakness::KnockPort(port), "the port of the sealed knock: other traffic to it"),
            (
                Weakness::Listening(port),
                "a port that a program here listens on: other traffic to it",
            ),
            (Weakness::Fragments(2000), "icmp:2000 does not fit into one packet"),
            (Weakness::InTheClear(ssh), "it opens ssh by a sequence in cleartext"),
            (Weakness::StopsAtOnce, "its stop command runs at once"),
        ] {
            let door = Door { name: "web".to_owned(), ..Door::default() };
            let sentence = sentence(&door, &weakness);
            assert!(
                sentence.starts_with("door [web] at ") && sentence.contains(said),
                "{sentence}"
            );
            assert!(!sentence.contains("  ") && !sentence.ends_with('.'), "{sentence}");
        }
    }

    #[test]
    fn a_container_that_may_be_behind_a_proxy_is_warned_of() {
        let warned = |own: &[&str], has_router: bool| {
            let own: Vec<IpAddr> = own.iter().map(|ip| ip.parse().unwrap()).collect();
            behind_a_proxy(&own, has_router).is_some()
        };
        assert!(warned(&["127.0.0.1", "172.17.0.2"], true));
        assert!(!warned(&["127.0.0.1", "172.17.0.2"], false), "nothing comes from outside");
        assert!(!warned(&["172.17.0.1", "2001:db8::1"], true), "the host's network");
    }

    #[test]
    fn a_service_whose_inner_host_is_this_machine_is_warned_of() {
        let forward = "[service.rdp]\nports = [\"3389/tcp\"]\nforward = \"10.0.0.5:3389\"\n";
        let settings = loaded(forward).settings;
        let warned = |own: &str| leads_nowhere(&settings, [true, true], &[own.parse().unwrap()]);
        let text = "service rdp forwards to 10.0.0.5:3389, an address of this machine";
        assert!(matches!(warned("10.0.0.5").as_slice(), [one] if one.starts_with(text)));
        assert_eq!(warned("10.0.0.1"), [""; 0]);
    }

    #[test]
    fn a_sound_door_is_not_warned_of() {
        let door =
            "[door.d]\nsequence = [\"7411/tcp\", \"2833/udp\", \"icmp:64\"]\nservice = \"ssh\"\n";
        assert_eq!(warnings(&loaded(door), &BTreeSet::new()), [""; 0]);
        let listening = BTreeSet::from([Port { proto: Proto::Udp, number: 2833 }]);
        assert_eq!(warnings(&loaded(door), &listening).len(), 1);
    }
}
