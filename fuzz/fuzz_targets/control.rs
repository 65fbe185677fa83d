//! Any bytes to the control socket, in any pieces: only the known commands are executed, at most
//! one for each connection, and neither lines nor connections accumulate.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use toctoc::core::types::Boot;
use toctoc::edge::control::{Control, ControlRequest, ControlResponse, MAX_REQUEST, MAX_SESSIONS};

const NOW: Boot = Boot(1);

/// In a directory of its own, which `bind` makes: nobody else may be able to write there.
fn path() -> PathBuf {
    std::env::temp_dir().join(format!("toctoc-fuzz-{}/control", std::process::id()))
}

thread_local! {
    static CONTROL: RefCell<Control> = RefCell::new(Control::bind(&path()).expect("a socket"));
}

fuzz_target!(|input: &[u8]| CONTROL.with_borrow_mut(|control| run(control, input)));

fn run(control: &mut Control, input: &[u8]) {
    let Some((size, line)) = input.split_first() else { return };
    if let Some(command) = ControlRequest::parse(line) {
        let again = serde_json::to_vec(&command).expect("a request can be encoded");
        assert_eq!(ControlRequest::parse(&again), Some(command));
        assert!(line.len() <= MAX_REQUEST);
    }
    let mut peer = UnixStream::connect(path()).expect("the socket listens");
    peer.set_nonblocking(true).expect("a socket");
    let asked = line.iter().position(|byte| *byte == b'\n').map(|end| &line[..end]);
    let expected = asked.and_then(ControlRequest::parse);
    let mut answers = 0;
    let mut waiting = Vec::new();
    // Answered at once, or only in the next turn.
    let is_late = size & 1 == 1;
    let mut serve = |control: &mut Control| {
        let mut due = std::mem::take(&mut waiting);
        for (id, request) in control.requests(NOW) {
            assert_eq!(Some(&request), expected.as_ref(), "a command that the peer did not send");
            answers += 1;
            if is_late { waiting.push(id) } else { due.push(id) }
        }
        for id in due {
            control.reply(NOW, id, &ControlResponse::Ok(serde_json::json!({})));
        }
        assert!(control.interests().count() <= MAX_SESSIONS + 1);
    };
    for piece in line.chunks(usize::from(*size) + 1) {
        // Bytes after the first line are ignored: the gateway may have closed the connection.
        let _ = peer.write(piece);
        serve(control);
    }
    serve(control);
    serve(control);
    let mut answer = Vec::new();
    let _ = peer.read_to_end(&mut answer);
    assert!(answers <= 1, "one connection, one answer");
    assert_eq!(answers == 1, answer.starts_with(b"{\"ok\""), "a command without a response");
    drop(peer);
    assert!(control.requests(NOW).is_empty(), "the peer is gone");
    assert_eq!(control.interests().count(), 1, "a closed connection is still kept");
}
