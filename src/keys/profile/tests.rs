//! Printed profiles parse; each mistake is reported with its place and without a secret.

use proptest::prelude::*;

use super::*;
use crate::core::keyring::Secret;
use crate::keys::public::tests::LINE;

/// A profile whose keys are all different.
pub(crate) fn sample() -> Profile {
    let key = |byte: u8| Secret::new([byte; 32]);
    Profile {
        name: "laptop".into(),
        client: ClientId([1; 16]),
        key: PublicKey::from_line(LINE).unwrap().0,
        addresses: vec!["gate.example.org".into(), "2001:db8::1".into()],
        port: 62201,
        side: ClientSide {
            gateway: GatewayId([3; 16]),
            realm: Realm::new(RealmId([2; 16]), key(4)),
            gateway_public: [5; 32],
            secrets: ClientSecrets::new(652, key(0xd6), key(0xd7)),
        },
        services: vec![ServiceName::new("ssh").unwrap(), ServiceName::new("web").unwrap()],
        default_service: ServiceName::new("ssh"),
        expires: None,
        identity: None,
        agent: None,
        fallback: None,
    }
}

#[test]
fn each_mistake_is_reported_with_its_place_and_without_a_secret() {
    let good = sample().print();
    for (from, to, wanted) in [
        ("port = 62201", "port = 0", "p:8:8: not a port"),
        ("port = 62201", "prot = 62201", "p:8:1: unknown key `prot`"),
        ("version = 1", "version = 2", "p:3:11: a profile of another version"),
        ("\"laptop\"", "\"my laptop\"", "p:4:8: not a client's name"),
        (
            "ssh-ed25519 AAAA",
            "ssh-rsa AAAA",
            "p:6:7: a key of type ssh-rsa: an RSA signature does not fit into a knock",
        ),
        ("\"gate.example.org\"", "\"gate:22\"", "p:7:14: not a host"),
        (
            "default_service = \"ssh\"",
            "default_service = \"shs\"",
            "p:10:19: unknown service `shs`",
        ),
        ("[\"ssh\"", "[\"S\"", "p:9:13: `S` is not a service name"),
        ("secret = \"1tbW", "secret = \"tbW", "p:17:10: not a key: 32 bytes in base64"),
        ("secret = \"1tbW", "secret = 1tbW", "p:17:"),
        ("gateway = \"0303", "gateway = \"33", "p:11:11: not an id: 32 hex digits"),
        ("period = 652", "period = -1", "p:14:10:"),
        ("generation = 0", "generation = 1", "p:13:14: a later generation of secrets"),
        ("clockless = ", "clokless = ", "p:18:1: unknown key `clokless`"),
        ("generation = 0", "generation = 0\nexpires = \"soon\"", "p:14:11: not a moment"),
    ] {
        assert!(good.contains(from), "{from}");
        let fault = Profile::parse("p", &good.replace(from, to)).err().expect(to);
        assert!(fault.what.starts_with(wanted), "got: {fault}\nwanted: {wanted}");
        assert!(!fault.remedy.is_empty() && !fault.to_string().contains("tbW1tbW1"), "{fault}");
    }
}

#[test]
fn a_changed_key_or_id_is_noticed_and_what_people_edit_may_change() {
    let good = sample().print();
    for (from, to) in [
        ("client = \"01", "client = \"02"),
        ("realm = \"02", "realm = \"03"),
        ("gateway = \"03", "gateway = \"02"),
        ("gateway_key = \"BQU", "gateway_key = \"BAU"),
        ("mask = \"BAQ", "mask = \"BQQ"),
        ("period = 652", "period = 653"),
        ("secret = \"1tb", "secret = \"1tc"),
        ("clockless = \"19f", "clockless = \"19e"),
        ("check = \"", "check = \"0"),
    ] {
        assert!(good.contains(from), "{from} in {}", good.as_str());
        let fault = Profile::parse("p", &good.replace(from, to)).err().expect(to);
        assert!(fault.what.contains("p:19:9: the keys and ids above do not fit"), "{fault}");
        assert!(fault.remedy.contains("import it again"), "{fault}");
    }
    for (from, to) in [
        ("laptop", "desktop"),
        ("gate.example.org", "gate2.example.org"),
        ("port = 62201", "port = 62202"),
        ("default_service = \"ssh\"", "default_service = \"web\""),
        ("generation = 0", "generation = 0\nexpires = \"2027-01-31T00:00:00Z\""),
        ("generation = 0", "generation = 0\nidentity = \"~/key\""),
    ] {
        assert!(Profile::parse("p", &good.replace(from, to)).is_ok(), "{to}");
    }
}

/// The fault of a profile with a classic sequence after `from` in it was replaced by `to`.
fn fallback_fault(from: &str, to: &str) -> Fault {
    let sequence = vec![Step::tcp(7411), Step::Echo { size: 64 }];
    let good = Profile { fallback: Some(Fallback { sequence, offer: true }), ..sample() }.print();
    assert!(good.contains(from), "{}", good.as_str());
    Profile::parse("p", &good.replace(from, to)).err().expect(to)
}

#[test]
fn a_wrong_classic_sequence_is_refused_and_never_shown() {
    for (from, to, wanted) in [
        ("\"icmp:64\"", "\"icmp\"", "p:12:25: not a step of a sequence"),
        ("[\"7411/tcp\", \"icmp:64\"]", "[]", "p:12:12: not a sequence"),
        ("classic = \"ask\"", "classic = \"aks\"", "p:14:11: unknown word `aks`"),
        ("sequence = [\"7411/tcp\", \"icmp:64\"]", "", "p:14:11: `classic` without a `sequence`"),
    ] {
        let fault = fallback_fault(from, to);
        assert!(fault.what.starts_with(wanted), "got: {fault}\nwanted: {wanted}");
        assert!(!fault.to_string().contains("7411"), "{fault}");
    }
}

#[test]
fn a_sequence_without_a_classic_key_is_never_offered() {
    let text = sample().print().replace("gateway = ", "sequence = [\"1/udp\"]\ngateway = ");
    let fallback = Profile::parse("p", &text).ok().unwrap().fallback.unwrap();
    assert!(!fallback.offer && fallback.sequence == [Step::udp(1)]);
    assert!(sample().print().contains("Alone it opens nothing:"));
    let holder = Profile { fallback: Some(fallback), ..sample() };
    assert!(holder.print().contains("Alone it opens the door of its sequence;"));
}

#[test]
fn a_missing_key_is_named() {
    let text: Vec<String> = sample()
        .print()
        .lines()
        .filter(|l| !l.starts_with("clockless"))
        .map(str::to_owned)
        .collect();
    assert!(
        Profile::parse("p", &text.join("\n")).err().unwrap().what.contains("missing: `clockless`")
    );
}

proptest! {
    #[test]
    fn a_printed_profile_parses_to_the_same_profile(
        (name, addresses, port) in ("[a-zA-Z0-9._@+-]{1,64}", proptest::collection::vec("[a-z]{1,9}", 1..5), 1..=65_535_u16),
        identity in proptest::option::of("[ -~é]{1,40}"),
        fallback in proptest::option::of((proptest::collection::vec((0..3_u8, 1..=65_507_u16), 1..=STEPS), any::<bool>())),
        bytes in any::<[[u8; 32]; 5]>(),
        period in 0..7000_u32,
        default in any::<bool>(),
        expires in proptest::option::of(0..253_402_207_200_u64),
    ) {
        let [mask, public, secret, clockless, ids] = bytes;
        let [realm, gateway] = ids.as_chunks::<16>().0 else { panic!("32 bytes are two ids") };
        let mut profile = sample();
        profile.side = ClientSide {
            gateway: GatewayId(*gateway),
            realm: Realm::new(RealmId(*realm), Secret::new(mask)),
            gateway_public: public,
            secrets: ClientSecrets::new(period, Secret::new(secret), Secret::new(clockless)),
        };
        profile.default_service = profile.default_service.filter(|_| default);
        (profile.name, profile.addresses, profile.port) = (name, addresses, port);
        profile.identity = identity.map(PathBuf::from);
        profile.expires = expires;
        let step = |(kind, number)| match kind {
            0 => Step::tcp(number),
            1 => Step::udp(number),
            _ => Step::Echo { size: number },
        };
        profile.fallback =
            fallback.map(|(steps, offer)| Fallback { sequence: steps.into_iter().map(step).collect(), offer });
        let text = profile.print();
        let read = Profile::parse("p", &text).map_err(|e| TestCaseError::fail(format!("{e}\n{}", text.as_str())))?;
        prop_assert_eq!(read.print(), text);
        prop_assert!(read.fallback == profile.fallback);
        prop_assert_eq!(read.expires, profile.expires);
        prop_assert_eq!(read.default_service, profile.default_service);
        prop_assert_eq!(read.services, profile.services);
        prop_assert_eq!((read.name, read.client), (profile.name, profile.client));
        prop_assert_eq!((read.addresses, read.port), (profile.addresses, profile.port));
        prop_assert_eq!(read.identity, profile.identity);
        prop_assert_eq!(read.side.gateway_public, public);
        let secrets = &read.side.secrets;
        let found = [read.side.realm.mask(), secrets.secret(), secrets.clockless()]
            .map(|secret| *secret.expose());
        prop_assert_eq!(found, [mask, secret, clockless], "each key in its own place");
        prop_assert_eq!(secrets.period(), period);
        prop_assert_eq!(read.side.gateway, profile.side.gateway);
        prop_assert_eq!(read.side.realm.id(), profile.side.realm.id());
    }
}
