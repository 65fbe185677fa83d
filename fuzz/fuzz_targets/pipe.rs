//! Any bytes on the pipe between the processes: no panic, and a message has exactly one encoding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use toctoc::edge::gatekeeper_pipe::{Message, ToGatekeeper, ToListener};

fuzz_target!(|input: &[u8]| {
    if let Some(message) = ToGatekeeper::decode(input) {
        assert_eq!(&message.encode()[..], input);
    }
    if let Some(message) = ToListener::decode(input) {
        assert!(input.len() <= ToListener::LONGEST);
        assert_eq!(&message.encode()[..], input);
    }
});
