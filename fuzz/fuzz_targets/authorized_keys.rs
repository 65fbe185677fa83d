//! An authorized_keys file: each line is a key that can be enrolled and read back under the name of
//! its comment, or is left out with a reason; none is both, and no reason has control characters.

#![no_main]

use jiff::{Timestamp, tz::TimeZone};
use libfuzzer_sys::fuzz_target;
use toctoc::core::service::Client;
use toctoc::core::types::{ClientId, ServiceName};
use toctoc::keys::authorized::limits::any_zone;
use toctoc::keys::authorized::{EMPTY, add, parse};
use toctoc::keys::authorized_keys::{name_of, read};

fuzz_target!(|input: &str| {
    let sorted = read(input, Timestamp::UNIX_EPOCH, &TimeZone::UTC);
    let lines = input.lines().map(str::trim);
    let meant = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    assert_eq!(meant, sorted.usable.len() + sorted.left_out.len());
    for left_out in &sorted.left_out {
        assert!(!left_out.why.is_empty() && !left_out.why.contains(char::is_control));
    }
    for usable in sorted.usable.iter().take(4) {
        let client = Client {
            id: ClientId([7; 16]),
            name: name_of(usable).as_str().into(),
            key: usable.key.clone(),
            services: ServiceName::new("ssh").into_iter().collect(),
            expires: usable.expires,
            limits: None,
            invited_until: None,
        };
        let text = add("clients", EMPTY, &client).expect("it was said to be usable");
        assert_eq!(parse("clients", &text, &any_zone).expect("we wrote it"), [client]);
    }
});
