//! Malformed lines, lines that contradict each other, edits that leave all else unchanged.

use proptest::prelude::*;

use super::*;
use crate::core::limits::Limits;
use crate::core::public_key::{FidoKey, PublicKey};
use crate::core::types::ClientId;
use crate::keys::public::tests::LINE;

const ID: &str = "000102030405060708090a0b0c0d0e0f";
const OTHER_ID: &str = "ff0102030405060708090a0b0c0d0e0f";
const OTHER: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINJEc5/Kk72OD9mSpuJPkOAykjcMzrpepBsHGTKjdCkm";

fn parse(label: &str, text: &str) -> Result<Vec<Client>, Fault> {
    super::parse(label, text, &any_zone)
}

fn read(label: &str, text: &str, before: &ClientTable) -> Result<ClientTable, Fault> {
    super::read(label, text, before, &any_zone)
}

fn key() -> &'static str {
    LINE.rsplit_once(' ').unwrap().0
}

fn what(text: &str) -> String {
    let fault = parse("c", text).expect_err(text);
    assert!(!fault.remedy.is_empty(), "{fault}");
    fault.what
}

#[test]
fn a_line_gives_a_client_and_its_rights() {
    let text = format!(
        "# heading\n\n  id={ID},services=\"ssh,web\",expires=\"2027-01-01T00:00:00Z\",max-seconds=600 {} laptop\r\n",
        key()
    );
    let clients = parse("c", &text).unwrap();
    let [client] = clients.as_slice() else { panic!("one client") };
    assert_eq!(client.name, "laptop");
    assert_eq!(client.id.to_string(), ID);
    assert_eq!(client.services.iter().map(ServiceName::as_str).collect::<Vec<_>>(), ["ssh", "web"]);
    assert_eq!(client.expires, Some(1_798_761_600));
    assert_eq!(client.limits().max_seconds, Some(600));
    assert_eq!(client.key, PublicKey::from_line(LINE).unwrap().0);
}

#[test]
fn each_mistake_is_reported_with_its_place() {
    let k = key();
    let other = OTHER;
    for (text, wanted) in [
        (format!("{k} laptop"), "c:1:1: this line does not begin with options"),
        (format!("id={ID} {k} laptop"), "c:1:1: no `services=` on this line"),
        (format!("services=ssh {k} laptop"), "c:1:1: no `id=` on this line"),
        (format!("\n id=12,services=ssh {k} laptop"), "c:2:5: not an id"),
        (format!("id={ID},servics=ssh {k} laptop"), "c:1:37: unknown option `servics`"),
        (
            format!("id={ID},services=\"ssh {k} laptop"),
            "c:1:46: this quotation mark is never closed",
        ),
        (
            format!("id={ID},services=\"ssh\"x {k} laptop"),
            "c:1:51: a comma or a blank is missing here",
        ),
        (format!("id={ID},services=\"SSH\" {k} laptop"), "c:1:46: `SSH` is not a service name"),
        (
            format!("id={ID},services=\"ssh,ssh\" {k} laptop"),
            "c:1:46: service `ssh` is named twice",
        ),
        (format!("id={ID},id={ID},services=ssh {k} laptop"), "c:1:37: `id` is given twice"),
        (format!("id={ID},services {k} laptop"), "c:1:45: no `=` after `services`"),
        (format!("id={ID},services=ssh,expires=soon {k} laptop"), "c:1:58: not a time"),
        (
            format!("id={ID},services=ssh,max-seconds=0 {k} laptop"),
            "c:1:62: max-seconds is out of range",
        ),
        (
            format!("id={ID},max-grants=0,services=ssh {k} laptop"),
            "c:1:48: max-grants is out of range",
        ),
        (format!("id={ID},not-before=1,services=ssh {k} laptop"), "c:1:48: not a time"),
        (
            format!("id={ID},hours=\"Mon-Fri 08:00-18:00\",services=ssh {k} laptop"),
            "c:1:43: no time zone at the end",
        ),
        (
            format!("id={ID},hours=\"Mon 8-18 UTC\",services=ssh {k} laptop"),
            "c:1:43: `Mon 8-18` is not days and times",
        ),
        (
            format!("id={ID},from=\"*.example.org\",services=ssh {k} laptop"),
            "c:1:42: not addresses and networks",
        ),
        (
            format!("id={ID},from=\"::1\",from=\"::1\",services=ssh {k} laptop"),
            "c:1:48: `from` is given twice",
        ),
        (
            format!("id={ID},services=ssh,verify-required {k} a"),
            "c:1:1: `verify-required` is for FIDO keys",
        ),
        (format!("id={ID},no-touch-required,services=ssh {k} a"), "c:1:1: `no-touch-required` is"),
        (
            format!("id={ID},verify-required,verify-required {k} a"),
            "c:1:53: `verify-required` is given twice",
        ),
        (format!("id={ID},services=ssh {k}"), "c:1:130: no name after the key"),
        (
            format!("id={ID},services=ssh {k} my laptop"),
            "c:1:131: `my laptop` is not a client's name",
        ),
        (
            format!("id={ID},services=ssh ssh-rsa AAAA laptop"),
            "c:1:50: a key of type ssh-rsa: an RSA signature does not fit into a knock",
        ),
        (format!("id={ID},services=ssh ssh-ed25519 AAAA laptop"), "c:1:50: not an ssh-ed25519 key"),
        (
            format!("id={ID},services=ssh {k} a\nid={ID},services=ssh {other} b"),
            "c:2:1: the same id as on line 1",
        ),
        (
            format!("id={ID},services=ssh {k} a\n\nid={OTHER_ID},services=ssh {k} b"),
            "c:3:50: the same key as on line 1",
        ),
        (
            format!("id={ID},services=ssh {k} a\nid={OTHER_ID},services=ssh {other} a"),
            "c:2:131: the same name as on line 1",
        ),
        ("x".repeat(5000), "c:1:1: a line of more than 4096 bytes"),
    ] {
        let found = what(&text);
        assert!(found.starts_with(wanted), "{text}\nfound:  {found}\nwanted: {wanted}");
    }
}

#[test]
fn a_zone_that_this_machine_does_not_know_refuses_the_line() {
    let line = format!("id={ID},hours=\"Mon 08:00-18:00 There\",services=ssh {} a", key());
    let fault = super::parse("c", &line, &|_| None).unwrap_err();
    assert!(fault.what.starts_with("c:1:43: this machine knows no time zone `There`"), "{fault}");
    assert!(super::parse("c", &line.replace("There", "UTC"), &|_| None).is_ok());
}

#[test]
fn a_line_is_disabled_and_enabled_byte_for_byte_whatever_its_quoted_values_have() {
    let options = "services=\"ssh,web\",hours=\"Mon-Fri 08:00-18:00, Sat 09:00-12:00 UTC\"";
    let line = format!("id={ID},{options},from=\"192.0.2.7, 2001:db8::/48\"");
    let text = format!("# heading\n{line} {} laptop\n", key());
    let disabled = set_disabled("c", &text, "laptop", true).unwrap();
    assert_eq!(disabled, format!("# heading\n{line},disabled {} laptop\n", key()));
    assert!(parse("c", &disabled).unwrap()[0].limits().disabled);
    assert_eq!(set_disabled("c", &disabled, "laptop", true).unwrap(), disabled, "twice is once");
    assert_eq!(set_disabled("c", &disabled, "laptop", false).unwrap(), text);
}

#[test]
fn a_client_is_not_added_twice() {
    let client = parse("c", &format!("id={ID},services=ssh {} a", key())).unwrap().remove(0);
    let text = add("c", EMPTY, &client).unwrap();
    assert!(add("c", &text, &client).unwrap_err().what.contains("has this name already"));
    let renamed = Client { name: "b".into(), id: ClientId([9; 16]), ..client };
    assert!(add("c", &text, &renamed).unwrap_err().what.contains("has this key already"));
}

#[test]
fn revoking_an_unknown_name_suggests_a_similar_one() {
    let text = format!("id={ID},services=ssh {} laptop", key());
    let fault = revoke("c", &text, "laptpo").unwrap_err();
    assert_eq!(fault.remedy, "did you mean `laptop`?");
    assert!(revoke("c", EMPTY, "x\u{1b}").unwrap_err().what.contains("x\\u{1b}"));
}

/// A line for a client of this number, with a key that nobody has.
fn line(number: u8, name: &str) -> String {
    let key = ed25519_dalek::SigningKey::from_bytes(&[number; 32]).verifying_key().to_bytes();
    let id = ClientId([number; 16]);
    format!("id={id},services=\"ssh\" {} {name}", PublicKey::plain(key).line())
}

/// The neutral element, for which everybody can sign.
const BAD: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[test]
fn a_mistake_in_one_line_keeps_nobody_from_being_revoked() {
    let text = format!("{}\nid=12 what is this\n{}\n", line(1, "anna"), line(2, "bert"));
    assert!(parse("c", &text).is_err());
    let without = revoke("c", &text, "anna").unwrap();
    assert_eq!(without, format!("id=12 what is this\n{}\n", line(2, "bert")));
    let broken = format!("{} x\n{}", line(1, "an na"), line(2, "bert"));
    assert_eq!(revoke("c", &broken, "x").unwrap(), line(2, "bert"), "the broken line itself");
    let both = format!("{}\n{}\n", line(1, "my bert"), line(2, "bert"));
    assert_eq!(revoke("c", &both, "bert").unwrap(), format!("{}\n", line(1, "my bert")));
    // A remark behind the name, also one that has another's name in it.
    let remark = format!("{} # bert's, lost\n{}\n", line(1, "anna"), line(2, "bert"));
    assert_eq!(revoke("c", &remark, "anna").unwrap(), format!("{}\n", line(2, "bert")));
    assert_eq!(revoke("c", &remark, "bert").unwrap(), remark[..remark.find('\n').unwrap() + 1]);
    assert!(revoke("c", &remark, "#").is_err());
    // A name that nobody can read any more, by the id.
    let id = ClientId([1; 16]).to_string();
    for name in ["an|na", "# anna", ""] {
        let lost = format!("{}\n{}\n", line(1, name), line(2, "bert"));
        assert!(revoke("c", &lost, "carl").is_err());
        assert_eq!(revoke("c", &lost, &id).unwrap(), format!("{}\n", line(2, "bert")), "{name}");
    }
}

#[test]
fn a_line_that_is_struck_out_names_nobody_and_the_file_is_as_long_as_before() {
    let text = format!("{}\n{}\n", line(1, "anna"), line(2, "bert"));
    let struck = strike_out("c", &text, "anna").unwrap();
    assert_eq!(struck.len(), text.len());
    assert_eq!(parse("c", &struck).unwrap(), parse("c", &line(2, "bert")).unwrap());
    assert_eq!(ids(&struck), BTreeSet::from([ClientId([2; 16])]));
    let odd = "\u{e9}id=1 anna\n";
    assert_eq!(strike_out("c", odd, "anna").unwrap(), "##id=1 anna\n");
}

#[test]
fn a_file_with_mistakes_still_names_whoever_has_an_id_in_it() {
    let before =
        read("c", &[1, 2, 3].map(|n| line(n, &format!("n{n}"))).join("\n"), &<_>::default());
    let before = before.unwrap();
    let now =
        format!("{} oh\n # id={}\nx,id={}", line(1, "n1"), ClientId([2; 16]), ClientId([3; 16]));
    let left = still_named(&now, &before);
    let ids: Vec<u8> = left.iter().map(|client| client.id.0[0]).collect();
    assert_eq!(ids, [1, 3], "a comment names nobody");
}

#[test]
fn a_line_that_has_not_changed_is_not_read_again_and_one_that_has_is() {
    let text =
        |third: &str| [&line(1, "a"), &line(2, "b"), third].map(|l| format!("{l}\n")).concat();
    let before = read("c", &text(&line(3, "c")), &ClientTable::default()).unwrap();
    let same = read("c", &text(&line(3, "c")), &before).unwrap();
    assert!(before.changes(&same).new.is_empty() && before.changes(&same).gone.is_empty());
    // The rows themselves are the same: nothing was read.
    assert!(std::ptr::eq(before.iter().next().unwrap(), same.iter().next().unwrap()));
    let new = read("c", &text(&line(3, "d")), &before).unwrap();
    assert_eq!(before.changes(&new).new.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["d"]);
    let expired = line(3, "c").replace(" ssh", ",expires=\"2020-01-01T00:00:00Z\" ssh");
    let new = read("c", &text(&expired), &before).unwrap();
    assert_eq!(new.get(ClientId([3; 16])).unwrap().expires, Some(1_577_836_800));
    assert!(std::ptr::eq(before.iter().next().unwrap(), new.iter().next().unwrap()));
}

#[test]
fn a_line_that_has_not_changed_is_compared_with_those_that_have() {
    let before =
        read("c", &format!("{}\n{}", line(1, "a"), line(2, "b")), &<_>::default()).unwrap();
    let fault = |text: String| read("c", &text, &before).unwrap_err().what;
    let newcomer = |name: &str| line(3, name);
    for (text, wanted) in [
        (format!("{}\n{}", newcomer("a"), line(1, "a")), "the same name as on line 1"),
        (format!("{}\n{}", line(1, "a"), newcomer("a")), "the same name as on line 1"),
        (format!("{}\n{}", line(1, "a"), line(1, "a")), "the same id as on line 1"),
        (
            format!("{}\n{}", line(1, "a"), line(1, "x").replace("id=01", "id=77")),
            "the same key as on line 1",
        ),
    ] {
        let found = fault(text);
        assert!(found.starts_with("c:2:") && found.ends_with(wanted), "{found}");
    }
}

#[test]
fn a_bad_key_in_a_line_written_by_hand_is_reported_with_its_place() {
    let text = format!("{}\nid={ID},services=ssh {BAD} x", line(1, "a"));
    for fault in [read("c", &text, &<_>::default()).err(), check_keys("c", &text).err()] {
        let what = fault.unwrap().what;
        assert!(
            what.starts_with("c:2:50: the Ed25519 key is not in the prime-order group"),
            "{what}"
        );
    }
    // It is known already, but its key is new.
    let before = read("c", &text.replace(BAD, OTHER), &ClientTable::default()).unwrap();
    assert!(read("c", &text, &before).is_err());
}

#[test]
fn among_more_than_a_thousand_new_lines_a_bad_key_is_read_and_can_never_be_used() {
    let mut text = String::new();
    for number in 0..1000u32 {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        let key = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key().to_bytes();
        let key = PublicKey::plain(key).line();
        text += &format!("id={:032x},services=ssh {key} n{number}\n", number + 1);
    }
    text += &format!("id={ID},services=ssh {BAD} x\n");
    let clients = read("c", &text, &ClientTable::default()).unwrap();
    let id = find("c", &text, "x").unwrap().id;
    assert!(clients.get(id).is_some() && clients.with_sound_key(id).is_none());
    assert!(check_keys("c", &text).unwrap_err().what.starts_with("c:1001:50: "));
}

#[test]
fn a_long_file_is_read_in_two_halves_as_if_in_one() {
    let mut lines: Vec<String> = Vec::new();
    for number in 0..10_000u128 {
        let mut key = [7; 32];
        key[..16].copy_from_slice(&number.to_be_bytes());
        let id = ClientId(number.wrapping_mul(u128::MAX / 10_007).to_be_bytes());
        lines.push(format!("id={id},services=\"ssh\" {} n{number}", PublicKey::plain(key).line()));
    }
    let text = lines.join("\n");
    assert!(text.len() > LONG);
    let clients = parse("c", &text).unwrap();
    assert!(clients.iter().zip(0..).all(|(client, n)| *client.name == format!("n{n}")));
    assert_eq!(clients.len(), 10_000);
    let before = read("c", &text, &<_>::default()).unwrap();
    assert!(read("c", &text, &before).unwrap().is_same(&before));
    let fault = |bad: &[usize]| {
        let mut lines = lines.clone();
        bad.iter().for_each(|place| lines[*place].push_str(" x"));
        read("c", &lines.join("\n"), &before).unwrap_err().what
    };
    for (bad, line) in [(&[8_000][..], 8_001), (&[2_000], 2_001), (&[2_000, 8_000], 2_001)] {
        assert!(fault(bad).starts_with(&format!("c:{line}:")), "{}", fault(bad));
    }
    let twice = format!("{text}\n{}", lines[3].replace("id=", "id=f"));
    assert!(read("c", &twice, &before).unwrap_err().what.starts_with("c:10001:"));
    let twice = read("c", &format!("{text}\n{}", lines[3]), &before).unwrap_err().what;
    assert_eq!(twice, "c:10001:1: the same id as on line 4");
}

/// A client with a real public key, made by the signature crate.
fn client() -> impl Strategy<Value = Client> {
    (
        any::<[u8; 32]>(),
        "[a-zA-Z0-9._@+-]{1,20}",
        proptest::collection::btree_set("[a-z]{1,5}", 1..4),
        any::<(bool, bool)>(),
        proptest::option::of(("ssh:[a-z]{0,3}", any::<bool>(), any::<bool>())),
    )
        .prop_map(|(seed, name, services, (expires, max), fido)| {
            let fido = fido.map(|(application, touch, verify)| {
                Arc::new(FidoKey { application, touch, verify })
            });
            let ed25519 = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key().to_bytes();
            let [id, ..] = seed.as_chunks::<16>().0 else { panic!("32 bytes are two ids") };
            Client {
                id: ClientId(*id),
                name: name.as_str().into(),
                key: PublicKey { ed25519, fido },
                services: services.iter().map(|s| ServiceName::new(s).unwrap()).collect(),
                expires: expires.then_some(1_800_000_000),
                limits: max.then(|| {
                    let hours =
                        limits::hours("Mon-Fri 08:00-18:00, Sun 22:00-02:00 UTC", &any_zone);
                    let from = limits::from("203.0.113.7,2001:db8::/48").unwrap();
                    let (hours, not_before) = (hours.ok(), Some(1_700_000_000));
                    Arc::new(Limits { from, hours, not_before, ..Limits::default() })
                }),
                invited_until: None,
            }
        })
}

proptest! {
    #[test]
    fn an_added_client_reads_back_and_revoking_it_restores_the_file(
        client in client(),
        before in "(# [a-z ]{0,9}|[ \t]{0,3})(\r?\n(# [a-z ]{0,9}|[ \t]{0,3})){0,3}",
    ) {
        let text = add("c", &before, &client).unwrap();
        prop_assert_eq!(parse("c", &text).unwrap(), std::slice::from_ref(&client));
        let after = format!("{text}# the end, without an end of line");
        prop_assert_eq!(&find("c", &after, &client.name).unwrap(), &client);
        let without = revoke("c", &after, &client.name).unwrap();
        let newline = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
        prop_assert_eq!(without, format!("{before}{newline}# the end, without an end of line"));
    }

    #[test]
    fn a_noted_door_reads_back_whatever_its_name(client in client(), door in "(\"|%|%2|\n|\r|\u{85}|,| |é|[a-z]){0,6}") {
        let text = note_door(&add("c", "# first\n", &client).unwrap(), client.id, &door);
        prop_assert_eq!(super::door(&text, client.id), Some(door));
        prop_assert_eq!(parse("c", &text).unwrap(), [client]);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "(id=|services=|[a-f0-9]{0,33}|\"|,| |ssh-ed25519|AAAA[A-Za-z]{0,70}|é|\n){0,12}") {
        if let Err(fault) = parse("c", &text) {
            prop_assert!(fault.what.starts_with("c:"));
        }
    }
}
