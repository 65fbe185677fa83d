//! What init writes works at once, is never overwritten, and clients come and go.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use clap::Parser;

use super::*;
use crate::app::args::toctocd::{
    Approve, ClientAdd, ClientCommand, Invite, ProfileArgs, ToctocdArgs, ToctocdCommand,
};
use crate::app::check::check;
use crate::app::joined::{ClientFiles, JoinTask};
use crate::core::authentic::public_key;
use crate::core::joining::{Asking, JoinAnswer};
use crate::core::keyring::Secret;
use crate::core::public_key::{FidoKey, PublicKey};
use crate::core::types::SECOND;
use crate::keys::invitation::Invitation;
use crate::keys::profile::Profile;
use crate::keys::public::show_fingerprint;
use crate::keys::public::tests::LINE;

fn parse(words: &[&str]) -> ToctocdCommand {
    ToctocdArgs::try_parse_from([&["toctocd"], words].concat()).unwrap().command
}

fn init_in(dir: &Path) -> Result<CommandOutput, Fault> {
    let dir = dir.to_str().unwrap();
    match parse(&[
        "init",
        "--dir",
        dir,
        "--address",
        "gate.example.org",
        "--service",
        "ssh=22/tcp",
        "--service",
        "web=443/tcp",
    ]) {
        ToctocdCommand::Init(init_args) => init(Path::new(defaults::CONFIG), &init_args),
        _ => unreachable!("parsed as init"),
    }
}

fn add_args(name: &str, key: &str, services: &str) -> ClientAdd {
    match parse(&[
        "client",
        "add",
        name,
        "--key",
        key,
        "--services",
        services,
        "--expires",
        "2099-01-01",
    ]) {
        ToctocdCommand::Client(ClientCommand::Add(args)) => args,
        _ => unreachable!("parsed as client add"),
    }
}

fn what(result: Result<CommandOutput, Fault>) -> String {
    result.err().expect("refused").what
}

#[test]
fn what_init_writes_is_sound_private_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("new").join("toctoc");
    let said = init_in(&dir).unwrap();
    assert!(said.out.contains(" invite laptop --services "), "{}", said.out.as_str());
    let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        [mode("gateway.key"), mode("clients"), mode("state"), mode("toctocd.toml")],
        [0o600, 0o600, 0o700, 0o644]
    );
    let config = dir.join("toctocd.toml");
    let checked = check(&config, false).unwrap();
    assert!(
        checked.out.contains("sound; 2 services, 0 clients, 0 doors"),
        "{}",
        checked.out.as_str()
    );
    assert!(checked.out.contains("no client is enrolled yet"));
    let printed = check(&config, true).unwrap();
    assert_eq!(native::parse("p", &printed.out).unwrap(), load::settings(&config).unwrap());

    let before: Vec<Vec<u8>> =
        ["gateway.key", "clients", "toctocd.toml"].map(|n| fs::read(dir.join(n)).unwrap()).into();
    assert!(what(init_in(&dir)).contains("exists already; nothing was changed"));
    fs::remove_file(&config).unwrap();
    let said = init_in(&dir).unwrap();
    assert!(
        said.out.contains(&format!("kept {}", dir.join("gateway.key").display())),
        "{}",
        said.out.as_str()
    );
    let after: Vec<Vec<u8>> =
        ["gateway.key", "clients", "toctocd.toml"].map(|n| fs::read(dir.join(n)).unwrap()).into();
    assert_eq!(before, after);
}

#[test]
fn two_services_cannot_be_given_one_port() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("d");
    let words =
        ["init", "--dir", dir.to_str().unwrap(), "--service", "a=22/tcp", "--service", "b=22/tcp"];
    let ToctocdCommand::Init(args) = parse(&words) else { unreachable!("parsed as init") };
    assert!(
        what(init(Path::new(defaults::CONFIG), &args))
            .contains("22/tcp is already taken by service `a`")
    );
    assert!(!dir.exists(), "nothing was made");
}

#[test]
fn a_client_comes_with_a_profile_that_fits_and_goes_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    init_in(dir).unwrap();
    let config = dir.join("toctocd.toml");
    let empty = fs::read(dir.join("clients")).unwrap();
    let said = add(&config, &add_args("laptop", LINE, "ssh,web")).unwrap();
    assert!(said.err.contains("no gateway is running here"), "{}", said.err);
    let profile = Profile::parse("p", &said.out).unwrap();
    let loaded = load::load_all(&config).unwrap();
    let client = loaded.clients.iter().next().unwrap();
    assert_eq!((profile.client, profile.key.fingerprint()), (client.id, client.fingerprint()));
    assert_eq!(profile.side.gateway_public, loaded.keys.public());
    let ours = loaded.keys.client_secrets(client.id);
    let theirs = &profile.side.secrets;
    assert_eq!(theirs.period(), ours.period());
    assert!(theirs.secret().ct_eq(ours.secret()) && theirs.clockless().ct_eq(ours.clockless()));
    assert_eq!(profile.side.gateway, loaded.keys.gateway);
    assert_eq!(profile.side.realm.id(), loaded.keys.realm.id());
    assert_eq!(profile.default_service.map(|s| s.to_string()), Some("ssh".to_owned()));
    assert_eq!(client.expires, Some(4_070_908_800));

    let table = list(&config).unwrap();
    assert!(
        table.out.contains("laptop  ssh,web   2099-01-01T00:00:00Z  SHA256:"),
        "{}",
        table.out.as_str()
    );
    let clients = fs::read_to_string(dir.join("clients")).unwrap();
    fs::write(dir.join("clients"), clients.replace("2099-01-01", "2020-01-01")).unwrap();
    let expired = list(&config).unwrap();
    assert!(expired.out.contains("  EXPIRED 2020-01-01T00:00:00Z  "), "{}", *expired.out);
    assert_eq!(expired.value.unwrap()[0]["expired"], true);
    fs::write(dir.join("clients"), clients).unwrap();
    let json = list(&config).unwrap().value.unwrap();
    assert_eq!(json[0]["expired"], false);
    assert_eq!(json[0]["services"], serde_json::json!(["ssh", "web"]));

    assert!(what(add(&config, &add_args("laptop", LINE, "ssh"))).contains("has this name already"));
    assert!(what(add(&config, &add_args("other", LINE, "ssh"))).contains("has this key already"));
    assert!(what(revoke(&config, "latpop")).contains("no client is called"));
    revoke(&config, "laptop").unwrap();
    assert_eq!(fs::read(dir.join("clients")).unwrap(), empty);
    assert_eq!(list(&config).unwrap().out.as_str(), "no client is enrolled\n");
}

#[test]
fn an_enrolment_that_cannot_work_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    init_in(dir).unwrap();
    let config = dir.join("toctocd.toml");
    let before = fs::read(dir.join("clients")).unwrap();
    let shs = add(&config, &add_args("a", LINE, "shs")).err().unwrap();
    assert_eq!(shs.to_string(), "this gateway has no service `shs`\n  did you mean `ssh`?");
    assert!(
        what(add(&config, &add_args("a", "ssh-rsa AAAA", "ssh")))
            .contains("--key: a key of type ssh-rsa")
    );
    assert!(
        what(add(&config, &add_args("a", "@/nonexistent", "ssh")))
            .contains("/nonexistent: no such file")
    );
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("[\"gate.example.org\"]", "[]")).unwrap();
    assert!(what(add(&config, &add_args("a", LINE, "ssh"))).contains("addresses is empty"));
    fs::set_permissions(dir.join("gateway.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let open = add(&config, &add_args("a", LINE, "ssh")).err().unwrap();
    assert!(open.remedy.starts_with("chmod 600 "), "{open}");
    assert_eq!(fs::read(dir.join("clients")).unwrap(), before);
}

#[test]
fn a_key_is_read_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    init_in(folder.path()).unwrap();
    let public = folder.path().join("id.pub");
    fs::write(&public, format!("# comment\n{LINE}\n")).unwrap();
    let config = folder.path().join("toctocd.toml");
    for key in [format!("@{}", public.display()), public.display().to_string()] {
        assert!(add(&config, &add_args("a", &key, "ssh")).is_ok(), "{key}");
        revoke(&config, "a").unwrap();
    }
    fs::write(&public, format!("{LINE}\n{LINE}\n")).unwrap();
    let several = add(&config, &add_args("a", public.to_str().unwrap(), "ssh")).err().unwrap();
    assert!(several.what.ends_with("id.pub: it has 2 keys, and --key enrols one"), "{several}");
    assert!(several.remedy.contains("client add --authorized-keys"), "{several}");
    fs::write(&public, "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n").unwrap();
    let private = add(&config, &add_args("a", public.to_str().unwrap(), "ssh")).err().unwrap();
    assert!(private.what.ends_with("this is a private key"), "{private}");
}

/// Enrols the keys of an authorized_keys file with this text, with profiles below `dir`.
fn add_list(dir: &Path, text: &str) -> Result<CommandOutput, Fault> {
    let list = dir.join("authorized_keys");
    fs::write(&list, text).unwrap();
    let profiles = dir.join("profiles");
    let words = [
        "client",
        "add",
        "--authorized-keys",
        list.to_str().unwrap(),
        "--services",
        "ssh,web",
        "--expires",
        "2098-01-01",
        "--out",
        profiles.to_str().unwrap(),
    ];
    match parse(&words) {
        ToctocdCommand::Client(ClientCommand::Add(args)) => add(&dir.join("toctocd.toml"), &args),
        _ => unreachable!("parsed as client add"),
    }
}

/// A key's line without a comment, with a key that nobody has.
fn key_line(seed: u8) -> String {
    PublicKey::plain(public_key(&Secret::new([seed; 32]))).line()
}

#[test]
fn each_usable_key_of_an_authorized_keys_file_becomes_a_client_and_the_rest_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    init_in(dir).unwrap();
    let config = dir.join("toctocd.toml");
    add(&config, &add_args("anna@home", LINE, "ssh")).unwrap();
    let mut fido = PublicKey::plain(public_key(&Secret::new([3; 32])));
    fido.fido = Some(Arc::new(FidoKey::new("ssh:")));
    let text = format!(
        "{LINE}\nssh-rsa AAAA old\nexpiry-time=\"20970101Z\" {} anna@home\n\
         verify-required {} anna@home\n{} last\n",
        key_line(2),
        fido.line(),
        key_line(2)
    );
    let said = add_list(dir, &text).unwrap();
    for part in [
        "authorized_keys:1: not enrolled: client `anna@home` has this key already\n",
        "authorized_keys:2: not enrolled: a key of type ssh-rsa: an RSA signature does not fit",
        "authorized_keys:5: not enrolled: client `anna@home-2` has this key already\n",
        "2 clients enrolled; no gateway is running here\n",
    ] {
        assert!(said.err.contains(part), "no {part:?} in {}", said.err);
    }
    assert_eq!(said.out.lines().count(), 2, "{}", *said.out);
    let clients = load::clients(&load::settings(&config).unwrap()).unwrap();
    let named = |name: &str| clients.iter().find(|client| client.name == name).unwrap();
    assert_eq!(clients.len(), 3);
    // The earlier end of the two.
    assert_eq!(named("anna@home-2").expires, Some(4_007_836_800));
    assert_eq!(named("anna@home-3").expires, Some(4_039_372_800));
    let rules = named("anna@home-3").key.fido.clone().unwrap();
    assert!(rules.touch && rules.verify);
    for name in ["anna@home-2", "anna@home-3"] {
        let file = dir.join(format!("profiles/{name}.toml"));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        let profile = Profile::parse("p", &fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(profile.client, named(name).id);
    }
}

#[test]
fn an_authorized_keys_file_that_cannot_be_enrolled_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    init_in(dir).unwrap();
    let before = fs::read(dir.join("clients")).unwrap();
    let none = add_list(dir, "ssh-rsa AAAA old\n").err().unwrap();
    assert!(none.what.contains("no key to enrol\n"), "{none}");
    assert!(none.what.ends_with("does not fit into a knock"), "{none}");
    assert!(!dir.join("profiles").exists());
    fs::create_dir(dir.join("profiles")).unwrap();
    fs::write(dir.join("profiles/bert.toml"), "mine").unwrap();
    let text = format!("{} anna\n{} bert\n", key_line(4), key_line(5));
    assert!(what(add_list(dir, &text)).contains("bert.toml: exists already"));
    let left: Vec<_> = fs::read_dir(dir.join("profiles")).unwrap().collect();
    assert_eq!(left.len(), 1, "a profile of nobody: {left:?}");
    assert_eq!(fs::read(dir.join("clients")).unwrap(), before);
}

#[test]
fn check_refuses_what_run_would_refuse_and_shows_what_run_would_warn_of() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    init_in(dir).unwrap();
    let config = dir.join("toctocd.toml");
    let text = fs::read_to_string(&config).unwrap();
    let settings = load::settings(&config).unwrap();
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings.clone();
        change(&mut settings);
        fs::write(&config, print::print(&settings)).unwrap();
        check(&config, false)
    };
    assert!(
        what(with(&|s| s.gateway.user = Some("nobody-of-that-name".into())))
            .contains("there is no such user")
    );
    let absent = with(&|s| s.knock.interfaces = vec!["none0".into()]).unwrap();
    assert!(absent.out.contains("warning: [knock] interfaces: interface none0: no such interface"));
    assert!(
        what(with(&|s| s.firewall.nft = "/nowhere/nft".into()))
            .contains("/nowhere/nft: No such file")
    );
    let warned = with(&|s| s.firewall.break_glass = vec!["192.0.2.1".parse().unwrap()]).unwrap();
    assert!(warned.out.contains("warning: break_glass"), "{}", warned.out.as_str());
    let doors = dir.join("doors.conf");
    let classic = |text: &str| {
        fs::write(&doors, text).unwrap();
        with(&|s| s.classic = Some(doors.clone()))
    };
    let dead = "[options]\nLogFile=/l\nUseSyslog\nInterface=eth9\n\n[d]\nsequence=9000,7000,8000\nseq_timeout=x\n";
    let said = classic(dead).unwrap();
    assert!(
        said.out.contains("only under the name knockd: Interface, LogFile, UseSyslog"),
        "{}",
        said.out.as_str()
    );
    assert!(
        said.out.contains("door [d] can never open: its seq_timeout is 0"),
        "{}",
        said.out.as_str()
    );
    let shipped = what(classic("# mine\n[a]\nsequence=1,9,5,3\n\n[b]\nsequence=7000,8000,9000\n"));
    assert!(shipped.contains("doors.conf:5: door [b]"), "{shipped}");
    fs::write(&config, text).unwrap();
    fs::set_permissions(dir.join("state"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(what(check(&config, false)).contains("(mode 0777)"));
}

#[test]
fn a_profile_goes_into_a_private_file_that_was_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    init_in(dir).unwrap();
    let (config, out) = (dir.join("toctocd.toml"), dir.join("laptop.toml"));
    let args = |name: &str| ClientAdd {
        profile: ProfileArgs { door: None, out: Some(out.clone()) },
        ..add_args(name, LINE, "ssh")
    };
    let said = add(&config, &args("laptop")).unwrap();
    assert!(said.out.is_empty() && said.err.contains("laptop.toml"), "{}", said.err);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(Profile::parse("p", &fs::read_to_string(&out).unwrap()).is_ok());
    revoke(&config, "laptop").unwrap();
    assert!(what(add(&config, &args("again"))).contains("exists already"));
    assert!(
        load::clients(&load::settings(&config).unwrap()).unwrap().is_empty(),
        "nobody was enrolled"
    );
    fs::remove_file(&out).unwrap();
    add(&config, &add_args("first", LINE, "ssh")).unwrap();
    assert!(what(add(&config, &args("second"))).contains("has this key already"));
    assert!(!out.exists(), "no profile of nobody");
}

fn invite_args(words: &[&str]) -> Invite {
    match parse(&[&["invite"], words].concat()) {
        ToctocdCommand::Invite(args) => args,
        _ => unreachable!("parsed as invite"),
    }
}

fn approve_args(name: &str, fingerprint: &str) -> Approve {
    match parse(&["client", "approve", name, fingerprint]) {
        ToctocdCommand::Client(ClientCommand::Approve(args)) => args,
        _ => unreachable!("parsed as client approve"),
    }
}

/// What the gatekeeper answers to this key, and leaves in the file.
fn asks(config: &Path, invitation: &Invitation, key: &PublicKey) -> JoinAnswer {
    let settings = load::settings(config).unwrap();
    let keys = load::keys(&settings).unwrap();
    let task = JoinTask {
        files: ClientFiles::of(&settings),
        asking: Asking {
            invitation: invitation.id,
            key: key.clone(),
            new_id: keys.master.joined_id(invitation.id, &key.ed25519),
            now: clock::now().wall.0 / SECOND,
        },
        clients: load::clients(&settings).unwrap(),
    };
    let done = task.run().unwrap();
    let again = load::clients(&settings).unwrap();
    assert!(done.clients.changes(&again).new.is_empty(), "what is in force is what a start reads");
    done.answer
}

#[test]
fn an_invitation_goes_from_the_line_to_a_client_and_is_revoked_in_one() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("toctoc");
    init_in(&dir).unwrap();
    let config = dir.join("toctocd.toml");
    let out = folder.path().join("line");
    let words = ["alice", "--services", "ssh", "-o", out.to_str().unwrap()];
    let said = invite(&config, &invite_args(&words)).unwrap();
    assert!(said.out.is_empty() && said.err.contains("`alice` is invited until"), "{}", said.err);
    let invitation = Invitation::parse(&fs::read_to_string(&out).unwrap()).ok().unwrap();
    assert_eq!(invitation.addresses, ["gate.example.org"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let joined = dir.join("state").join("joined");
    assert_eq!([mode(&out), mode(&joined)], [0o600, 0o600]);
    assert!(list(&config).unwrap().out.contains("any key, invited until"));
    assert!(
        what(invite(&config, &invite_args(&["alice", "--services", "ssh"]))).contains("already")
    );

    let (key, _) = PublicKey::from_line(LINE).unwrap();
    let shown = show_fingerprint(&key.fingerprint());
    assert!(what(approve(&config, &approve_args("alice", &shown))).contains("no key has asked"));
    assert_eq!(asks(&config, &invitation, &key), JoinAnswer::Pending);
    assert!(list(&config).unwrap().out.contains(&format!("{shown} WAITS\n")));
    let other = show_fingerprint(&PublicKey::plain([1; 32]).fingerprint());
    assert!(what(approve(&config, &approve_args("alice", &other))).contains("nobody was let in"));
    assert_eq!(asks(&config, &invitation, &key), JoinAnswer::Pending);
    approve(&config, &approve_args("alice", &shown)).unwrap();
    let JoinAnswer::Enrolled(id) = asks(&config, &invitation, &key) else { panic!("not enrolled") };
    assert!(what(approve(&config, &approve_args("alice", &shown))).contains("has joined already"));

    // Her key and her name are taken, in the clients file too.
    for (name, key) in [
        (
            "alice",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINjve3Erwo1Qdst7gtB2kqwB3rI3SNYbOpB2TPnVD2o8",
        ),
        ("bob", LINE),
    ] {
        let refused = add(&config, &add_args(name, key, "ssh"));
        assert!(!what(refused).is_empty(), "{name}");
    }
    // A new id, as for any client; the invitation answers with it.
    let profile = forgive(&config, "alice", &ProfileArgs { door: None, out: None }).unwrap();
    let profile = Profile::parse("p", &profile.out).ok().unwrap();
    assert!(profile.client != id && profile.key == key);
    assert_eq!(asks(&config, &invitation, &key), JoinAnswer::Enrolled(profile.client));

    let said = revoke(&config, "alice").unwrap();
    assert!(said.err.contains(joined.to_str().unwrap()), "{}", said.err);
    assert_eq!(asks(&config, &invitation, &key), JoinAnswer::Gone);
    assert!(list(&config).unwrap().out.contains("no client is enrolled"));
    assert_eq!(revoke(&config, "alice").err().unwrap().kind, FaultKind::Name);
}

/// Another key than that of [`LINE`].
const OTHER: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINJEc5/Kk72OD9mSpuJPkOAykjcMzrpepBsHGTKjdCkm";

#[test]
fn a_disabled_client_is_none_while_its_line_stays_also_if_another_line_has_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("toctoc");
    init_in(&dir).unwrap();
    let config = dir.join("toctocd.toml");
    add(&config, &add_args("anna", LINE, "ssh")).unwrap();
    let settings = load::settings(&config).unwrap();
    let before = load::clients(&settings).unwrap();
    let file = dir.join("clients");
    let line = fs::read_to_string(&file).unwrap();
    let said = disable(&config, "anna").unwrap();
    assert!(said.err.contains("to let it in again: toctocd client enable anna"), "{}", said.err);
    assert!(load::clients(&settings).unwrap().is_empty());
    assert!(list(&config).unwrap().out.contains("DISABLED"));
    assert!(what(add(&config, &add_args("other", LINE, "ssh"))).contains("has this key already"));
    disable(&config, "anna").unwrap();
    let disabled = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{disabled}rubbish\n")).unwrap();
    let files = ClientFiles::of(&settings);
    let read = load::clients_again(&files, &before).unwrap();
    assert!(read.mistake.is_some() && read.clients.is_empty(), "a mistake keeps nobody in");
    fs::write(&file, disabled).unwrap();
    enable(&config, "anna").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), line, "the line is as it was");
    assert!(before.changes(&load::clients(&settings).unwrap()).gone.is_empty());
    assert_eq!(disable(&config, "nobody").err().unwrap().kind, FaultKind::Name);

    let words = ["bert", "--services", "ssh", "--key", OTHER];
    let invitation = invite(&config, &invite_args(&words)).unwrap();
    let invitation = Invitation::parse(&invitation.out).ok().unwrap();
    let (key, _) = PublicKey::from_line(OTHER).unwrap();
    let JoinAnswer::Enrolled(id) = asks(&config, &invitation, &key) else { panic!("not enrolled") };
    disable(&config, "bert").unwrap();
    let clients = load::clients(&settings).unwrap();
    assert!(clients.get(id).is_none() && clients.get(invitation.id).is_none());
    enable(&config, "bert").unwrap();
    assert!(load::clients(&settings).unwrap().get(id).is_some());
}

#[test]
fn a_rotation_gives_new_secrets_or_another_key_and_ends_the_invitation_that_would_tell_them() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("toctoc");
    init_in(&dir).unwrap();
    let config = dir.join("toctocd.toml");
    let none = || ProfileArgs { door: None, out: None };
    let words = ["bert", "--services", "ssh", "--key", LINE, "--hours", "daily 08:00-18:00 UTC"];
    let invitation = invite(&config, &invite_args(&words)).unwrap();
    let invitation = Invitation::parse(&invitation.out).ok().unwrap();
    let (old, _) = PublicKey::from_line(LINE).unwrap();
    let JoinAnswer::Enrolled(id) = asks(&config, &invitation, &old) else { panic!("not enrolled") };
    let (new, _) = PublicKey::from_line(OTHER).unwrap();
    for (key, expected) in [(None, &old), (Some(OTHER), &new)] {
        let said = rotate(&config, "bert", key, &none()).unwrap();
        let profile = Profile::parse("p", &said.out).ok().unwrap();
        assert!(profile.client != id && profile.key == *expected);
        let clients = load::clients(&load::settings(&config).unwrap()).unwrap();
        assert!(clients.get(id).is_none() && clients.get(invitation.id).is_none());
        let client = clients.get(profile.client).unwrap();
        assert!(client.key == *expected && client.limits().hours.is_some());
    }
    assert_eq!(asks(&config, &invitation, &old), JoinAnswer::Gone);

    let added = add(&config, &add_args("anna", LINE, "ssh")).unwrap();
    let added = Profile::parse("p", &added.out).ok().unwrap();
    let taken = rotate(&config, "anna", Some(OTHER), &none());
    assert!(what(taken).contains("is invited or has joined already"));
    let said = rotate(&config, "anna", None, &none()).unwrap();
    let profile = Profile::parse("p", &said.out).ok().unwrap();
    let clients = load::clients(&load::settings(&config).unwrap()).unwrap();
    assert_eq!(clients.get(profile.client).unwrap().expires, Some(4_070_908_800));
    assert!(clients.get(added.client).is_none(), "the old profile is worth nothing");
    assert!(what(rotate(&config, "bert", Some(LINE), &none())).contains("has the new key"));
}

#[test]
fn a_rotation_keeps_the_rules_that_the_line_has_for_fido_keys() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("toctoc");
    init_in(&dir).unwrap();
    let config = dir.join("toctocd.toml");
    let fido = |line: &str| {
        let (key, _) = PublicKey::from_line(line).unwrap();
        let fido = FidoKey { application: "ssh:".into(), touch: true, verify: false };
        PublicKey { fido: Some(Arc::new(fido)), ..key }.line()
    };
    add(&config, &add_args("anna", &fido(LINE), "ssh")).unwrap();
    let file = dir.join("clients");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(" sk-ssh", ",verify-required sk-ssh")).unwrap();
    let rotate = |key: &str| {
        let none = ProfileArgs { door: None, out: None };
        rotate(&config, "anna", Some(key), &none)
    };
    assert!(what(rotate(OTHER)).contains("the new key is no FIDO key"));
    let said = rotate(&fido(OTHER)).unwrap();
    let profile = Profile::parse("p", &said.out).ok().unwrap();
    let clients = load::clients(&load::settings(&config).unwrap()).unwrap();
    let key = &clients.get(profile.client).unwrap().key;
    assert!(key.line() == fido(OTHER) && key.fido.as_ref().unwrap().verify);
}

#[test]
fn an_invitation_for_one_key_lets_it_in_at_once_and_a_damaged_file_keeps_nobody_from_a_revocation()
{
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("toctoc");
    init_in(&dir).unwrap();
    let config = dir.join("toctocd.toml");
    let (key, _) = PublicKey::from_line(LINE).unwrap();
    for (name, words) in [("one", ["--key", LINE]), ("two", ["--gateway-name", "bastion"])] {
        let said =
            invite(&config, &invite_args(&[&[name, "--services", "ssh"], &words[..]].concat()));
        let invitation = Invitation::parse(&said.unwrap().out).ok().unwrap();
        let expected = if name == "one" { JoinAnswer::Denied } else { JoinAnswer::Pending };
        assert_eq!(asks(&config, &invitation, &PublicKey::plain([9; 32])), expected);
        if name == "one" {
            assert!(matches!(asks(&config, &invitation, &key), JoinAnswer::Enrolled(_)));
        } else {
            assert_eq!(invitation.gateway_name, "bastion");
        }
    }
    let joined = dir.join("state").join("joined");
    let text = fs::read_to_string(&joined).unwrap();
    fs::write(&joined, text.replacen("services=\"ssh\"", "sirvices=\"ssh\"", 1) + "rubbish\n")
        .unwrap();
    assert!(load::clients(&load::settings(&config).unwrap()).is_err());
    revoke(&config, "one").unwrap();
    let left = fs::read_to_string(&joined).unwrap();
    assert!(!left.contains(" one\n") && left.contains(" two\n") && left.contains("rubbish"));
}
