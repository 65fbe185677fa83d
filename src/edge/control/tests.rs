//! Sessions that are slow, silent, strange or many, and sockets that are not ours.

use super::*;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::thread;

const NOW: Boot = Boot(1);

fn ok(command: &ControlRequest) -> ControlResponse {
    ControlResponse::Ok(serde_json::json!({ "was": format!("{command:?}") }))
}

fn bound() -> (tempfile::TempDir, PathBuf, Control) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let control = Control::bind(&path).unwrap();
    (dir, path, control)
}

fn connect(path: &Path, text: &str) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

/// Waits on the sockets, not on the clock, until a request comes.
fn next(control: &mut Control) -> (SessionId, ControlRequest) {
    for _ in 0..1000 {
        let interests = control.interests();
        let mut fds: Vec<_> = interests.map(|(fd, how)| PollFd::new(fd, how)).collect();
        assert!(poll(&mut fds, PollTimeout::from(10_000u16)).unwrap() > 0, "nobody came");
        let mut requests = control.requests(NOW);
        assert!(requests.len() < 2, "one at a time");
        if let Some(request) = requests.pop() {
            return request;
        }
    }
    panic!("nobody is served");
}

#[test]
fn an_admin_is_answered_on_a_socket_that_only_the_owner_may_use() {
    let (_dir, path, mut control) = bound();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let admin = thread::spawn(move || ask(&path, &ControlRequest::Status, Duration::from_secs(10)));
    let (id, command) = next(&mut control);
    control.reply(NOW, id, &ok(&command));
    assert_eq!(admin.join().unwrap().unwrap()["was"], "Status");
}

#[test]
fn a_session_that_waits_for_its_response_keeps_no_other_waiting() {
    let (_dir, path, mut control) = bound();
    let mut first = connect(&path, "{\"do\":\"reload\"}\n");
    let (reload, _) = next(&mut control);
    let admin = thread::spawn(move || ask(&path, &ControlRequest::Status, Duration::from_secs(10)));
    let (status, command) = next(&mut control);
    assert_ne!(status, reload);
    control.reply(NOW, status, &ok(&command));
    assert_eq!(admin.join().unwrap().unwrap()["was"], "Status");
    assert!(control.requests(NOW.plus(3600)).is_empty(), "asked once");
    control.reply(NOW, reload, &ok(&ControlRequest::Reload));
    let mut response = String::new();
    first.read_to_string(&mut response).unwrap();
    assert_eq!(response, "{\"ok\":{\"was\":\"Reload\"}}\n");
    control.reply(NOW, reload, &ok(&ControlRequest::Reload));
}

#[test]
fn who_hangs_up_while_waiting_is_forgotten() {
    let (_dir, path, mut control) = bound();
    let stream = connect(&path, "{\"do\":\"reload\"}\nand more");
    let (id, _) = next(&mut control);
    assert!(control.requests(NOW).is_empty());
    assert_eq!(control.sessions.len(), 1);
    drop(stream);
    control.requests(NOW);
    assert!(control.sessions.is_empty());
    control.reply(NOW, id, &ok(&ControlRequest::Reload));
}

#[test]
fn sessions_that_say_nothing_or_do_not_read_make_room_in_time() {
    let (_dir, path, mut control) = bound();
    let _silent: Vec<_> = (2..MAX_SESSIONS).map(|_| connect(&path, "")).collect();
    let mut slow = connect(&path, "{");
    let _deaf = connect(&path, "{\"do\":\"grants\"}\n");
    let (id, _) = next(&mut control);
    let much = serde_json::Value::String("x".repeat(1 << 22));
    control.reply(NOW, id, &ControlResponse::Ok(much));
    assert!(control.requests(NOW.plus(IDLE - 1)).is_empty(), "they have their time");
    assert_eq!(control.sessions.len(), MAX_SESSIONS);
    slow.write_all(b"\"").unwrap();
    control.requests(NOW.plus(IDLE));
    assert_eq!(control.sessions.len(), 1, "another byte is no more time");
    control.requests(NOW.plus(READING));
    assert!(control.sessions.is_empty());
}

#[test]
fn idle_sessions_keep_no_admin_out_and_those_that_wait_stay() {
    let (_dir, path, mut control) = bound();
    let mut asked = connect(&path, "{\"do\":\"reload\"}\n");
    let (reload, _) = next(&mut control);
    let mut idle: Vec<_> = (1..MAX_SESSIONS).map(|_| connect(&path, "")).collect();
    control.requests(NOW);
    assert_eq!(control.sessions.len(), MAX_SESSIONS);
    for _ in 0..20 {
        let _admin = connect(&path, "{\"do\":\"status\"}\n");
        let (id, command) = next(&mut control);
        assert_eq!(command, ControlRequest::Status);
        control.reply(NOW, id, &ok(&command));
    }
    assert_eq!(idle[0].read(&mut [0; 1]).unwrap(), 0, "the oldest has made room");
    idle[1].set_nonblocking(true).unwrap();
    assert!(idle[1].read(&mut [0; 1]).is_err(), "the next one has not: there is room");
    control.reply(NOW, reload, &ok(&ControlRequest::Reload));
    let mut response = String::new();
    asked.read_to_string(&mut response).unwrap();
    assert!(response.contains("Reload"), "{response}");
}

#[test]
fn when_all_wait_for_their_responses_the_next_one_waits_and_nobody_spins() {
    let (_dir, path, mut control) = bound();
    let mut all: Vec<_> =
        (0..MAX_SESSIONS).map(|_| connect(&path, "{\"do\":\"reload\"}\n")).collect();
    let mut ids: Vec<SessionId> = Vec::new();
    while ids.len() < MAX_SESSIONS {
        ids.extend(control.requests(NOW).into_iter().map(|(id, _)| id));
    }
    all.push(connect(&path, "{\"do\":\"status\"}\n"));
    assert!(control.requests(NOW).is_empty());
    let listener = control.listener.as_fd().as_raw_fd();
    let polled: Vec<_> = control.interests().map(|(fd, _)| fd.as_raw_fd()).collect();
    assert!(!polled.contains(&listener));
    control.reply(NOW, ids[0], &ok(&ControlRequest::Reload));
    assert_eq!(next(&mut control).1, ControlRequest::Status);
}

#[test]
fn an_unknown_request_is_refused_in_words() {
    let (_dir, path, mut control) = bound();
    let mut stream = connect(&path, "{\"do\":\"open-everything\"}\n");
    assert!(control.requests(NOW).is_empty(), "it is not a command");
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.contains("not one that this toctocd knows"), "{response}");
}

#[test]
fn what_is_no_socket_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("shadow"), dir.path().join("link"));
    fs::write(&file, "precious").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for path in [&file, &link] {
        let fault = Control::bind(path).err().unwrap();
        assert!(fault.what.contains("is not a toctocd socket"), "{fault}");
    }
    assert!(link.is_symlink() && fs::read(&file).unwrap() == b"precious");
    let left = dir.path().join("left");
    drop(UnixListener::bind(&left).unwrap());
    assert!(Control::bind(&left).is_ok(), "what a dead gateway left");
}

#[test]
fn a_second_gateway_does_not_take_the_socket() {
    let (_dir, path, control) = bound();
    assert!(Control::bind(&path).is_err());
    drop(control);
    assert!(Control::bind(&path).is_ok());
}
