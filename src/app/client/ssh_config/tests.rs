//! The lines for ssh, and the files they stand in. `tests/end_to_end/every_day.rs` has them with
//! the real ssh.

use super::*;
use crate::app::client::ask::tests as gateway;

fn held(name: &str, addresses: &[&str]) -> HeldProfile {
    let mut profile = gateway::profile(62201);
    profile.addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
    HeldProfile { name: name.to_owned(), profile, path: PathBuf::new() }
}

#[test]
fn a_name_that_hides_another_host_gets_no_lines() {
    for (name, addresses) in [
        ("home", &["gate.example.org"][..]),
        ("gate.example.org", &["gate.example.org", "192.0.2.1"]),
        ("192.0.2.1", &["gate.example.org", "192.0.2.1"]),
    ] {
        let stanza = Stanza::new(&held(name, addresses), None, false).ok().unwrap();
        let text = stanza.print();
        assert!(
            text.starts_with(&format!("Host {name}\n    HostName {}\n", addresses[0])),
            "{text}"
        );
        assert!(text.ends_with(&format!(" connect {name}:ssh\n")), "{text}");
    }
    let asking = Stanza::new(&held("home", &["192.0.2.1"]), None, true).ok().unwrap();
    assert!(asking.print().ends_with(" connect home:ssh --ask-source\n"), "{}", asking.print());
    for name in ["github.com", "gate.example.com", "./home.toml", "*", "a b", "-oProxyCommand=x"] {
        let fault = Stanza::new(&held(name, &["gate.example.org"]), None, false).err().unwrap();
        assert!(fault.remedy.contains("toctoc import"), "{fault}");
    }
}

#[test]
fn one_profile_comes_and_goes_without_its_neighbours() {
    let stanza = |name| Stanza::new(&held(name, &["192.0.2.1"]), None, false).ok().unwrap();
    let both = format!("{HEAD}{}{}", stanza("home").block(), stanza("home2").block());
    let one = without(&both, "home");
    assert_eq!(one, format!("{HEAD}{}", stanza("home2").block()));
    assert_eq!(without(&one, "home"), one);
    assert_eq!(without(&one, "home2"), HEAD);
}

#[test]
fn a_damaged_block_ends_where_the_next_one_begins_or_with_the_file() {
    let block = |name| Stanza::new(&held(name, &["192.0.2.1"]), None, false).unwrap().block();
    let cut = block("home").replace(END, "    HostName elsewhere\n");
    let damaged = format!("{HEAD}{cut}{}{cut}", block("home2"));
    assert_eq!(without(&damaged, "home"), format!("{HEAD}{}", block("home2")));
    assert_eq!(without(&damaged, "home2"), format!("{HEAD}{cut}{cut}"));
}

#[test]
fn what_ssh_would_do_is_read_from_its_own_answer() {
    let text = "user u\nhostname gate.example.org\nport 22\nproxycommand none\nproxyjump hop\n";
    let view = SshView::parse(text);
    assert_eq!((view.host.as_str(), view.command), ("gate.example.org", None));
    assert_eq!(view.jump.as_deref(), Some("hop"));
    let view = SshView::parse("hostname x\nproxycommand nc %h %p\n");
    assert_eq!(view.command.as_deref(), Some("nc %h %p"));
}
