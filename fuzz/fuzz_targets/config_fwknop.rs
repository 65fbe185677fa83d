//! Whatever fwknop's files say, what they become is a configuration that we read, and no key of
//! theirs is shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use toctoc::config::convert::fwknop::{FileReader, Sources, client, convert};
use toctoc::config::{defaults, native};
use toctoc::core::types::Fault;

/// A key of the input. It has characters that nothing but a key has.
const KEY: &str = "~~KEY~~";

fuzz_target!(|input: &str| {
    // One text for all files: it may include itself.
    let text = format!("{input}\nKEY {KEY}\nSOURCE ANY\nKEY {KEY}\n");
    let read = |_: &str| Ok::<_, Fault>(text.clone());
    let folder = |_: &str| Ok::<_, Fault>(vec!["a.conf".to_owned(), "b.conf".to_owned()]);
    let sources = Sources {
        access: "access.conf",
        server: Some("fwknopd.conf"),
        files: FileReader { text: &read, folder: &folder },
        own: &[],
        now: 1_772_323_200,
    };
    let converted = convert(&sources, &defaults::settings()).expect("every file is there");
    if let Err(fault) = native::parse("toctocd.toml", &converted.toml) {
        panic!("{fault}\n{}", converted.toml);
    }
    for invitation in &converted.invitations {
        assert!(invitation.bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{invitation:?}");
    }
    let from_client = client::convert("fwknoprc", &text);
    if !input.contains('~') {
        assert!(!format!("{converted:?}{from_client:?}").contains(KEY));
    }
});
