use proptest::prelude::*;

use super::*;
use crate::core::ledger::Ledger;
use crate::core::openings::COMMAND;

fn key() -> impl Strategy<Value = GrantKey> {
    (
        any::<bool>(),
        any::<[u8; 16]>(),
        "[a-z0-9._-]{1,31}",
        any::<[u8; 16]>(),
        any::<u16>(),
        any::<bool>(),
        0..=16_u8,
    )
        .prop_map(|(door, id, service, source, source_port, v4, ignored)| {
            let v4_source = Source::new([source[0], source[1], source[2], source[3]].into());
            let source = if v4 { v4_source } else { Source::from_bytes(source) };
            let ignored = if source.ip().is_ipv6() { ignored * 5 } else { ignored };
            let span = Span::from_byte(ignored, source).unwrap();
            GrantKey {
                holder: if door { Holder::Door(id) } else { Holder::Client(ClientId(id)) },
                service: ServiceName::new(&service).unwrap(),
                source: span.of(source),
                source_port: if span == Span::HOST { source_port } else { 0 },
                span,
            }
        })
}

pub(crate) fn record() -> impl Strategy<Value = Record> {
    let client = || any::<[u8; 16]>().prop_map(ClientId);
    let wall = || any::<u64>().prop_map(Wall);
    let marks = prop::collection::vec((any::<bool>(), any::<u64>()), 0..200).prop_map(|steps| {
        let mut marks = UsedMarks::default();
        steps.iter().for_each(|(see, t)| {
            if *see { marks.see(Wall(*t)) } else { marks.burn(Wall(*t), Wall(*t)) }
        });
        marks
    });
    let cut = prop_oneof![
        Just(DisconnectPolicy::Never),
        Just(DisconnectPolicy::Revoked),
        Just(DisconnectPolicy::Closed)
    ];
    let proof =
        prop_oneof![Just(AddressProof::Both), Just(AddressProof::Seen), Just(AddressProof::Signed)];
    let live = (key(), any::<bool>(), any::<u64>(), wall(), any::<u64>(), any::<u32>(), cut, proof)
        .prop_map(|(key, once, ports, wall, boot, seconds, cut, proof)| ActiveGrant {
            key,
            form: if once { GrantKind::Once } else { GrantKind::Time },
            ports,
            opened: Now { wall, boot: Boot(boot) },
            seconds,
            cut,
            proof,
        });
    let stop = prop_oneof![
        ".{0,1000}".prop_map(CommandLine::Shell),
        prop::collection::vec("[^\0]{0,100}", 1..8).prop_map(CommandLine::Argv),
    ];
    let opened = (any::<u64>(), ".{0,100}", any::<[u8; 16]>(), stop, wall(), any::<u32>())
        .prop_map(|(id, door, source, stop, opened, timeout)| OpeningEntry {
            id,
            door,
            source: Source::from_bytes(source).ip(),
            stop,
            opened,
            timeout,
        });
    prop_oneof![
        (client(), wall()).prop_map(|(client, timestamp)| Record::Seen { client, timestamp }),
        (client(), wall(), wall()).prop_map(|(client, one, other)| Record::Burned {
            client,
            first: one.min(other),
            last: one.max(other),
        }),
        (client(), marks).prop_map(|(client, marks)| Record::Marks { client, marks }),
        wall().prop_map(|wall| Record::Newest { wall }),
        wall().prop_map(|at| Record::Lost { at }),
        wall().prop_map(|at| Record::Reinitialised { at }),
        live.prop_map(Record::Granted),
        key().prop_map(Record::Ended),
        opened.prop_map(Record::Opened),
        any::<u64>().prop_map(|id| Record::Stopped { id }),
    ]
}

proptest! {
    #[test]
    fn a_key_in_a_list_comes_back_and_other_texts_are_none(key in key(), other in "[0-9a-f]{0,140}|.{0,9}") {
        let text = key.to_text();
        prop_assert_eq!(GrantKey::from_text(&text), Some(key));
        prop_assert_eq!(GrantKey::from_text(&text[1..]), None);
        prop_assert_eq!(GrantKey::from_text(&format!("{text}00")), None);
        if let Some(read) = GrantKey::from_text(&other) {
            prop_assert_eq!(read.to_text(), other);
        }
    }

    #[test]
    fn every_record_comes_back(records in prop::collection::vec(record(), 1..5)) {
        let mut bytes = Vec::new();
        for record in &records {
            record.encode(&mut bytes).unwrap();
        }
        let mut reader = Reader::new(&bytes);
        for record in &records {
            let back = Record::decode(&mut reader);
            prop_assert_eq!(back.as_ref(), Some(record));
        }
        prop_assert!(reader.finish().is_some());
    }

    #[test]
    fn bytes_that_are_not_a_record_are_refused_and_a_read_record_is_written_the_same(
        record in record(), flip in any::<prop::sample::Index>(), bit in 0u8..8, cut in 0usize..300,
    ) {
        let mut bytes = Vec::new();
        record.encode(&mut bytes).unwrap();
        let place = flip.index(bytes.len());
        bytes[place] ^= 1 << bit;
        bytes.truncate(bytes.len().saturating_sub(cut / 2));
        let mut reader = Reader::new(&bytes);
        if let Some(other) = Record::decode(&mut reader) {
            let mut again = Vec::new();
            other.encode(&mut again).unwrap();
            prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.rest().len()]);
        }
    }

    #[test]
    fn the_shortest_list_means_the_same(records in prop::collection::vec(record(), 0..40)) {
        let ledger = Ledger::of(&records);
        let shorter = Ledger::of(&ledger.records());
        // Grants that are over by the newest time are the one thing that may go.
        prop_assert_eq!(shorter.records(), ledger.records());
        prop_assert_eq!(shorter.marks().collect::<Vec<_>>(), ledger.marks().collect::<Vec<_>>());
        prop_assert_eq!(shorter.openings().collect::<Vec<_>>(), ledger.openings().collect::<Vec<_>>());
        prop_assert_eq!((shorter.lost(), shorter.newest()), (ledger.lost(), ledger.newest()));
    }
}

#[test]
fn the_longest_stop_command_fits_and_a_longer_text_is_refused_with_a_remedy() {
    let opened = |length: usize| {
        Record::Opened(OpeningEntry {
            id: 7,
            door: "door".to_owned(),
            source: "192.0.2.7".parse().unwrap(),
            stop: CommandLine::Shell("x".repeat(length)),
            opened: Wall(1),
            timeout: 10,
        })
    };
    let mut bytes = Vec::new();
    opened(COMMAND).encode(&mut bytes).unwrap();
    assert_eq!(Record::decode(&mut Reader::new(&bytes)), Some(opened(COMMAND)));
    let before = bytes.clone();
    let fault = opened(TEXT).encode(&mut bytes).unwrap_err();
    assert!(fault.what.contains("door") && !fault.remedy.is_empty());
    assert_eq!(bytes, before);
}

#[test]
fn a_stop_command_stored_before_there_were_programs_is_read_as_it_was_written() {
    let head =
        "09000017000000000000000700000000000000000000ffffc00002070000000000000001000000 0a0004";
    let mut bytes: Vec<u8> = head.replace(' ', "").as_bytes().chunks(2).map(hex).collect();
    bytes.resize(RECORD, 0);
    bytes.extend(b"door/bin/close 192.0.2.7");
    bytes[3] = 24;
    let stop = CommandLine::Shell("/bin/close 192.0.2.7".to_owned());
    let (source, opened) = ("192.0.2.7".parse().unwrap(), Wall(1));
    let shell = OpeningEntry { id: 7, door: "door".to_owned(), source, stop, opened, timeout: 10 };
    assert_eq!(Record::decode(&mut Reader::new(&bytes)), Some(Record::Opened(shell.clone())));
    // And a program with its arguments is another kind of record.
    let argv = ["/bin/close", "", "a b"].map(str::to_owned).to_vec();
    let mut written = Vec::new();
    Record::Opened(OpeningEntry { stop: CommandLine::Argv(argv), ..shell })
        .encode(&mut written)
        .unwrap();
    assert_eq!((written[0], &written[RECORD..]), (11, &b"door/bin/close\0\0a b\0"[..]));
    // One that does not end with its last argument is none.
    written.pop();
    written[3] -= 1;
    assert_eq!(Record::decode(&mut Reader::new(&written)), None);
}

fn hex(pair: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()
}
