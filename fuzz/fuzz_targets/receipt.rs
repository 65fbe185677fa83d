//! A client accepts only the receipt of its own knock, and decoding is the inverse of encoding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use toctoc::core::keyring::Secret;
use toctoc::core::knock::{RECEIPT_CONTENT, Receipt, Status};
use toctoc::core::prefix::Span;
use toctoc::core::test_vectors::{self, NOON};
use toctoc::core::wire::{AwaitingReceipt, RECEIPT};

struct Knock {
    awaiting: AwaitingReceipt,
    receipt: Receipt,
    answer: [u8; RECEIPT],
}

static KNOCK: LazyLock<Knock> = LazyLock::new(|| {
    let (datagram, awaiting) = test_vectors::datagram(&test_vectors::request(NOON), [5; 32]);
    let receipt = Receipt {
        status: Status::Observed,
        once: false,
        seconds: 0,
        time: NOON,
        working_day: NOON.day(),
        observed: test_vectors::address(),
        granted: None,
        span: Span::HOST,
        ports: [None; 4],
        challenge: None,
        next_key: None,
        welcome: None,
    };
    let (parts, reply) =
        test_vectors::open(&datagram, NOON).unwrap_or_else(|r| panic!("{}", r.name())).split();
    let body = test_vectors::receipt_body(&receipt, parts.day, &parts.h);
    let answer = reply
        .seal(&test_vectors::realm(), body, Secret::new([6; 32]))
        .expect("a valid knock has a reply");
    Knock { awaiting, receipt, answer }
});

fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    match mode % 3 {
        0 => assert!(
            KNOCK.awaiting.open(rest).is_none() || rest == KNOCK.answer,
            "a receipt that nobody sealed"
        ),
        1 => changed(rest),
        _ => layout(rest),
    }
});

fn changed(bytes: &[u8]) {
    let mut answer = KNOCK.answer;
    for (byte, change) in answer.iter_mut().zip(bytes) {
        *byte ^= change;
    }
    let expected = if answer == KNOCK.answer { Some(KNOCK.receipt) } else { None };
    assert_eq!(KNOCK.awaiting.open(&answer), expected);
}

/// Decodes any 120 bytes, and a valid receipt with any difference.
fn layout(bytes: &[u8]) {
    let mut body = KNOCK.receipt.encode();
    for (byte, change) in body.iter_mut().zip(bytes) {
        *byte ^= change;
    }
    let exact: Option<[u8; RECEIPT_CONTENT]> = bytes.try_into().ok();
    for mut body in [Some(body), exact].into_iter().flatten() {
        if let Some(receipt) = Receipt::decode(&body) {
            // A flag that a later gateway may set, without effect here.
            body[2] &= !2;
            assert_eq!(receipt.encode(), body, "two receipts mean the same");
        }
    }
}
