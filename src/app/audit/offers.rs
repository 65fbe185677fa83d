//! What the services themselves offer to anybody behind an address that is let in.

use std::net::SocketAddr;

use super::report::{Finding, Grade};
use crate::core::types::Proto;
use crate::edge::listening::{ListeningSocket, Process};
use crate::edge::service_talk::{Talk, printed_by};

/// Algorithms of SSH that are broken or too weak, by sshd's name for their list.
const WEAK: [(&str, &[&str]); 4] = [
    ("ciphers", &["3des-cbc", "aes128-cbc", "aes192-cbc", "aes256-cbc", "arcfour", "blowfish-cbc"]),
    ("macs", &["hmac-md5", "hmac-md5-96", "hmac-sha1-96", "hmac-md5-etm@openssh.com"]),
    (
        "kexalgorithms",
        &[
            "diffie-hellman-group1-sha1",
            "diffie-hellman-group14-sha1",
            "diffie-hellman-group-exchange-sha1",
        ],
    ),
    ("hostkeyalgorithms", &["ssh-dss", "ssh-rsa"]),
];
/// Ports where plain HTTP is to be expected.
const HTTP: [u16; 4] = [80, 8000, 8080, 8888];
const REDIS: u16 = 6379;
const RDP: u16 = 3389;

/// What a TCP socket of this host offers, if it is one that we know.
pub(super) fn offers(socket: &ListeningSocket) -> Vec<Finding> {
    if socket.proto != Proto::Tcp {
        return Vec::new();
    }
    let about = match &socket.process {
        Some(process) => format!("{} ({})", socket.port(), process.name),
        None => socket.port().to_string(),
    };
    if let Some(process) = &socket.process
        && process.name == "sshd"
    {
        return sshd(process, &about, socket.local.port());
    }
    let is_rdp = socket.process.as_ref().is_some_and(|process| process.name.contains("rdp"));
    let spoken = match socket.local.port() {
        RDP => rdp(socket.local),
        _ if is_rdp => rdp(socket.local),
        port => greeting(socket.local, port),
    };
    spoken
        .into_iter()
        .map(|(what, remedy)| Finding::new(Grade::Warn, &about, what, remedy))
        .collect()
}

/// A fact about a service, and what to do.
type Offer = (&'static str, &'static str);

fn sshd(process: &Process, about: &str, port: u16) -> Vec<Finding> {
    // A Match block may ask for any of these.
    let spec = format!("user=root,host=client.invalid,addr=192.0.2.1,laddr=192.0.2.2,lport={port}");
    let mut words = vec!["-T".to_owned(), "-C".to_owned(), spec];
    words.extend(own_options(&process.command));
    let Some(settings) = printed_by(&process.program, &words) else {
        let what = format!("its settings were not read: `{} -T` fails", process.program.display());
        let remedy = "run that command as root to see why";
        return vec![Finding::new(Grade::Note, about, what, remedy)];
    };
    sshd_findings(&settings, about)
}

/// Options of a running sshd that name its configuration, out of its title.
fn own_options(command: &str) -> Vec<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let mut options = Vec::new();
    for pair in words.windows(2) {
        if let [option @ ("-f" | "-o" | "-h"), value] = pair {
            options.extend([(*option).to_owned(), (*value).to_owned()]);
        }
    }
    options
}

/// What `sshd -T` says, as findings.
fn sshd_findings(settings: &str, about: &str) -> Vec<Finding> {
    let value = |name: &str| {
        settings.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("")
    };
    let mut found = Vec::new();
    let mut warn = |what: String, remedy: String| {
        found.push(Finding::new(Grade::Warn, about, what, remedy));
    };
    let set = |line: &str| {
        format!(
            "put `{line}` into /etc/ssh/sshd_config.d/hardening.conf, then `systemctl reload ssh`"
        )
    };
    if value("passwordauthentication") == "yes" {
        warn(
            "it takes passwords: they can be guessed by anybody behind a granted address"
                .to_owned(),
            set("PasswordAuthentication no"),
        );
    }
    if value("kbdinteractiveauthentication") == "yes" {
        warn(
            "it takes keyboard-interactive logins, which are passwords under another name"
                .to_owned(),
            set("KbdInteractiveAuthentication no"),
        );
    }
    if value("permitrootlogin") == "yes" {
        warn("root may log in by any method".to_owned(), set("PermitRootLogin prohibit-password"));
    }
    if value("permitemptypasswords") == "yes" {
        warn("it takes empty passwords".to_owned(), set("PermitEmptyPasswords no"));
    }
    for (list, weak) in WEAK {
        let offered = value(list).split(',').filter(|name| weak.contains(name));
        let names: Vec<&str> = offered.collect();
        if !names.is_empty() {
            let names = names.join(",");
            warn(format!("it offers weak {list}: {names}"), set(&format!("{list} -{names}")));
        }
    }
    found
}

/// What X.224 answers to a client that asks for these protocols of security.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RdpAnswer {
    Chosen(u8),
    Refused,
    /// It does not speak RDP, or not at all.
    None,
}

const TLS: u8 = 1;

fn rdp(socket: SocketAddr) -> Vec<Offer> {
    let ask = |wanted: u8| {
        let Ok(mut talk) = Talk::with(socket) else { return RdpAnswer::None };
        match talk.say(&connection_request(wanted)) {
            Ok(()) => rdp_answer(&talk.hear()),
            Err(_) => RdpAnswer::None,
        }
    };
    rdp_offers(ask(0), ask(TLS))
}

fn rdp_offers(without_tls: RdpAnswer, without_nla: RdpAnswer) -> Vec<Offer> {
    let mut offers = Vec::new();
    if without_tls == RdpAnswer::Chosen(0) {
        offers.push((
            "RDP without TLS is accepted: its own encryption is broken",
            "require TLS: security_layer=tls in xrdp.ini; on Windows, SecurityLayer 2 by policy",
        ));
    }
    if without_nla == RdpAnswer::Chosen(TLS) {
        offers.push((
            "RDP without NLA is accepted: anybody behind a granted address gets the logon screen",
            "require network level authentication where the server has it (Windows: \
             UserAuthentication 1); xrdp has none, so grant it to single addresses only",
        ));
    }
    offers
}

/// An X.224 connection request with a negotiation request (MS-RDPBCGR 2.2.1.1).
fn connection_request(wanted: u8) -> [u8; 19] {
    [3, 0, 0, 19, 14, 0xe0, 0, 0, 0, 0, 0, 1, 0, 8, 0, wanted, 0, 0, 0]
}

fn rdp_answer(bytes: &[u8]) -> RdpAnswer {
    match bytes {
        [3, _, _, _, _, 0xd0, _, _, _, _, _, 2, _, _, _, chosen, ..] => RdpAnswer::Chosen(*chosen),
        [3, _, _, _, _, 0xd0, _, _, _, _, _, 3, ..] => RdpAnswer::Refused,
        // A server that does not know the question.
        [3, _, _, 11, _, 0xd0, ..] => RdpAnswer::Chosen(0),
        _ => RdpAnswer::None,
    }
}

/// What a service says first, or to the plainest question that its port suggests.
fn greeting(socket: SocketAddr, port: u16) -> Vec<Offer> {
    let Ok(mut talk) = Talk::with(socket) else { return Vec::new() };
    let asks: &[u8] = match port {
        _ if HTTP.contains(&port) => b"HEAD / HTTP/1.0\r\n\r\n",
        REDIS => b"PING\r\n",
        _ => b"",
    };
    if talk.say(asks).is_err() {
        return Vec::new();
    }
    let mut heard = talk.hear();
    if heard.starts_with(b"RFB ") {
        // The server's own version, said back.
        let version: Vec<u8> = heard.iter().copied().take(12).collect();
        heard = match talk.say(&version) {
            Ok(()) => [&b"RFB"[..], &talk.hear()].concat(),
            Err(_) => return Vec::new(),
        };
    }
    offer_of(&heard, port).into_iter().collect()
}

fn offer_of(heard: &[u8], port: u16) -> Option<Offer> {
    match heard {
        [b'R', b'F', b'B', number, types @ ..] => {
            // Version 3.3 names one type, in four bytes.
            let none = match (number, types) {
                (0, [0, 0, 1, ..]) => true,
                (number, types) => types.iter().take(usize::from(*number)).any(|kind| *kind == 1),
            };
            if !none {
                return None;
            }
            Some((
                "VNC without a password: anybody behind a granted address has the screen",
                "set a password (vncpasswd) and -SecurityTypes VncAuth or TLSVnc",
            ))
        }
        [0xff, 0xfb..=0xfe, ..] => Some((
            "telnet: the password is sent in cleartext",
            "use ssh in its place, and remove telnetd",
        )),
        [b'2', b'2', b'0', b' ' | b'-', ..] if port == 21 => Some((
            "FTP: passwords and files are sent in cleartext, unless each client asks for TLS",
            "use sftp in its place, or require TLS",
        )),
        _ if heard.starts_with(b"HTTP/1.") && HTTP.contains(&port) => Some((
            "HTTP without TLS: passwords and cookies are sent in cleartext",
            "offer HTTPS, and let this port only redirect to it",
        )),
        _ if heard.starts_with(b"+PONG") => Some((
            "Redis without a password: anybody behind a granted address has all data",
            "set `requirepass`, or an ACL, in redis.conf",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::path::PathBuf;
    use std::thread;

    use super::*;

    #[test]
    fn every_weakness_of_sshd_has_its_line_for_the_configuration_and_a_hard_one_has_none() {
        let weak = "port 22\npasswordauthentication yes\nkbdinteractiveauthentication yes\n\
                    permitrootlogin yes\npermitemptypasswords yes\n\
                    ciphers aes128-ctr,3des-cbc\nmacs hmac-md5,hmac-sha2-256\n\
                    kexalgorithms curve25519-sha256,diffie-hellman-group1-sha1\n\
                    hostkeyalgorithms ssh-ed25519,ssh-rsa\n";
        let found = sshd_findings(weak, "22/tcp (sshd)");
        let remedies: Vec<&str> = found.iter().map(|one| one.remedy.as_str()).collect();
        for (line, remedy) in [
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "PermitEmptyPasswords no",
            "ciphers -3des-cbc",
            "macs -hmac-md5",
            "kexalgorithms -diffie-hellman-group1-sha1",
            "hostkeyalgorithms -ssh-rsa",
        ]
        .iter()
        .zip(&remedies)
        {
            assert!(remedy.contains(line), "{line}: {remedies:?}");
        }
        assert_eq!(found.len(), 8);
        let hard = "passwordauthentication no\nkbdinteractiveauthentication no\n\
                    permitrootlogin without-password\npermitemptypasswords no\n\
                    ciphers chacha20-poly1305@openssh.com\n";
        assert_eq!(sshd_findings(hard, "22/tcp"), []);
    }

    #[test]
    fn the_options_of_a_running_sshd_are_found_in_its_title() {
        let title = "sshd: /usr/sbin/sshd -D -f /etc/ssh/two [listener] 0 of 10-100 startups";
        assert_eq!(own_options(title), ["-f", "/etc/ssh/two"]);
        assert_eq!(own_options("sshd: /usr/sbin/sshd -D [listener]"), [""; 0]);
    }

    #[test]
    fn rdp_is_told_by_what_it_accepts_at_least() {
        let answer =
            |kind, chosen| [3, 0, 0, 19, 14, 0xd0, 0, 0, 0, 0, 0, kind, 0, 8, 0, chosen, 0, 0, 0];
        let plain = rdp_answer(&[3, 0, 0, 11, 6, 0xd0, 0, 0, 0, 0, 0]);
        assert_eq!(plain, RdpAnswer::Chosen(0));
        let (tls, refused) = (rdp_answer(&answer(2, 1)), rdp_answer(&answer(3, 5)));
        assert_eq!((tls, refused), (RdpAnswer::Chosen(1), RdpAnswer::Refused));
        assert_eq!(rdp_answer(b"SSH-2.0-x"), RdpAnswer::None);
        let said = |a, b| rdp_offers(a, b).len();
        assert_eq!(said(refused, refused), 0, "NLA is required");
        assert_eq!(said(refused, tls), 1, "TLS without NLA");
        assert_eq!(said(plain, tls), 2);
        assert_eq!(said(RdpAnswer::None, RdpAnswer::None), 0);
    }

    /// What is said of a server that answers a client without TLS, and one that wants it, so.
    fn said_of_rdp(place: &str, program: &str, answers: [&'static [u8]; 2]) -> Vec<String> {
        let server = TcpListener::bind(place).unwrap();
        let local = server.local_addr().unwrap();
        let serving = thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = server.accept().unwrap();
                let mut asked = [0; 19];
                stream.read_exact(&mut asked).unwrap();
                let wanted = asked[15];
                // MS-RDPBCGR 4.1.1, without a cookie.
                let request = [3, 0, 0, 19, 14, 0xe0, 0, 0, 0, 0, 0, 1, 0, 8, 0, wanted, 0, 0, 0];
                assert_eq!(asked, request);
                stream.write_all(answers[usize::from(wanted)]).unwrap();
            }
        });
        let (name, command) = (program.to_owned(), String::new());
        let process = Some(Process { pid: 7, name, program: PathBuf::new(), command });
        let found = offers(&ListeningSocket { proto: Proto::Tcp, local, process });
        serving.join().unwrap();
        found.into_iter().map(|one| one.what).collect()
    }

    #[test]
    fn a_server_of_rdp_is_asked_with_and_without_tls_at_its_port_or_by_its_name() {
        const PLAIN: &[u8] = &[3, 0, 0, 11, 6, 0xd0, 0, 0, 0, 0, 0];
        const TLS: &[u8] = &[3, 0, 0, 19, 14, 0xd0, 0, 0, 0x12, 0x34, 0, 2, 0, 8, 0, 1, 0, 0, 0];
        const NLA: &[u8] = &[3, 0, 0, 19, 14, 0xd0, 0, 0, 0x12, 0x34, 0, 3, 0, 8, 0, 5, 0, 0, 0];
        let [no_tls, no_nla] = ["RDP without TLS is accepted", "RDP without NLA is accepted"];
        for (answers, expected) in
            [([PLAIN, TLS], &[no_tls, no_nla][..]), ([NLA, TLS], &[no_nla]), ([NLA, NLA], &[])]
        {
            for (place, program) in [("127.0.77.1:3389", "x"), ("127.0.77.1:0", "xrdp")] {
                let said = said_of_rdp(place, program, answers);
                assert_eq!(said.len(), expected.len(), "{said:?}");
                assert!(said.iter().zip(expected).all(|(said, begin)| said.starts_with(begin)));
            }
        }
    }

    #[test]
    fn services_in_cleartext_or_without_a_password_are_known_by_their_first_words() {
        for (heard, port, word) in [
            (&b"RFB\x02\x02\x01"[..], 5900, "VNC"),
            (b"RFB\x00\x00\x00\x01", 5900, "VNC"),
            (b"\xff\xfd\x18", 23, "telnet"),
            (b"220 ready", 21, "FTP"),
            (b"HTTP/1.1 200 OK", 8080, "HTTP"),
            (b"+PONG\r\n", 6379, "Redis"),
        ] {
            let offer = offer_of(heard, port).unwrap_or_else(|| panic!("{word}"));
            assert!(offer.0.starts_with(word), "{offer:?}");
        }
        for heard in [&b"RFB\x01\x02"[..], b"RFB", b"", b"SSH-2.0-OpenSSH", b"220 mail", b"-NOAUTH"]
        {
            assert_eq!(offer_of(heard, 25), None, "{heard:?}");
        }
    }
}
