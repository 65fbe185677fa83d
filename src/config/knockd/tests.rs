//! knockd.conf against knockd 0.8's observed readings and messages.
//! The file of one-time sequences is tested in `one_time`.

use super::*;

fn no_file(_: &Path) -> Result<Vec<u8>, String> {
    Err("No such file or directory".into())
}

fn parse(text: &str) -> Result<KnockdConf, KnockdError> {
    read(text.as_bytes(), false, Strictness::Knockd, &mut no_file, &mut |_| ())
}

fn door(body: &str) -> Door {
    parse(&format!("[d]\n{body}\n")).unwrap().doors.remove(0)
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn ports(text: &str) -> String {
    sequence(text, "d").map(|steps| list(&steps)).unwrap_or_else(|error| error.text)
}

#[test]
fn a_full_configuration_is_read_with_all_its_aliases_and_any_case() {
    let text = "# comment\n\n[options]\n\tUseSyslog\n  logfile = /var/log/k\nPIDFILE=/run/k\nInterface = eth1\n\
        [first]\nSequence = 7000, 8000:UDP ,9000: tcp\nseq_timeout = 5s\nTCPFlags = syn,!ACK\nTarget = 192.0.2.1\n\
        Start_Command = /bin/echo %IP% = # \"x\"\ncmd_timeout = 7\nstop_command = stop\n\
        [ second [x] ]\nsequence = 1\ntimeout = junk\ncommand = a\ncommand_6 =\nstop_command_6 = b\ncommand = c\r\n";
    let conf = parse(text).unwrap();
    assert!(conf.use_syslog);
    assert_eq!(conf.log_file.as_deref(), Some("/var/log/k"));
    assert_eq!(conf.pid_file.as_deref(), Some("/run/k"));
    assert_eq!(conf.interface.as_deref(), Some("eth1"));
    let first = Door {
        name: "first".into(),
        sequence: vec![Step::tcp(7000), Step::udp(8000), Step::tcp(9000)],
        seq_timeout: 5,
        flags: TcpFlags { set: 2, unset: 16 },
        target: Some("192.0.2.1".into()),
        start_command: Some("/bin/echo %IP% = # \"x\"".into()),
        cmd_timeout: 7,
        stop_command: Some("stop".into()),
        ..Door::default()
    };
    let second = Door {
        name: " second [x] ".into(),
        sequence: vec![Step::tcp(1)],
        seq_timeout: 0,
        start_command: Some("c".into()),
        start_command_6: Some(String::new()),
        stop_command_6: Some("b".into()),
        ..Door::default()
    };
    assert_eq!(conf.doors, [first, second]);
}

#[test]
fn every_refusal_has_knockds_words_and_its_line() {
    let many = format!("[d]\nsequence = {}1", "1,".repeat(32));
    for (text, expected) in [
        ("sequence=1\n", "config: line 1: all directives must belong to a section"),
        ("\n# x\n[]\n", "config: line 3: bad section name"),
        ("[options]\n[d\n", "config: line 2: syntax error"),
        ("[Options]\nlogfile = x\n", "config: line 2: syntax error"),
        ("[options]\nsequence = 1\n", "config: line 2: syntax error"),
        ("[options]\nUseSyslog = yes\n", "config: line 2: syntax error"),
        ("[d]\nsequence_timeout = 1\n", "config: line 2: syntax error"),
        ("[d]\nlogfile=/x\n", "config: line 2: syntax error"),
        ("\u{feff}[d]\n", "config: line 1: all directives must belong to a section"),
        ("[d]\ntcpflags = syn, ack\n", "config: line 2: unrecognized flag \" ACK\""),
        ("[d]\ntcpflags =\n", "config: line 2: unrecognized flag \"\""),
        ("[d]\ntcpflags = fin|syn\n", "config: line 2: unrecognized flag \"FIN|SYN\""),
        ("[d]\ntcpflags = ece\n", "config: line 2: unrecognized flag \"ECE\""),
        ("[d]\nsequence = 65536\n", "config: section d: port 65536 is invalid"),
        ("[d]\nsequence = 7001:icmp\n", "config: section d: unknown protocol in knock sequence"),
        ("[d]\nsequence = 7001:\n", "config: section d: unknown protocol in knock sequence"),
        (&many, "config: section d: too many ports in knock sequence"),
        ("[a]\n[b]\nsequence = 1\n", "error: section 'a' has an empty knock sequence"),
        ("[d]\none_time_sequences = /none\n", "/none: No such file or directory"),
        ("[d]\none_time_sequences =\n", "No such file or directory"),
    ] {
        assert_eq!(message(text), expected, "{text:?}");
    }
}

#[test]
fn a_fault_of_ours_names_file_line_and_column_and_the_remedy() {
    let fault = parse("[d]\n\nsequence = 70000\n")
        .unwrap_err()
        .fault(Path::new("/etc/knockd.conf"), "[d]\n\nsequence = 70000\n");
    assert_eq!(fault.what, "/etc/knockd.conf:3:12: section d: port 70000 is invalid");
    assert!(fault.remedy.contains("port:udp"));
    assert_eq!(fault.excerpt, "  |\n3 | sequence = 70000\n  |            ^^^^^\n");
}

#[test]
fn ports_are_read_as_atoi_reads_them() {
    for (text, expected) in [
        ("7001abc", "7001:tcp"),
        (" +7001", "7001:tcp"),
        ("0007001", "7001:tcp"),
        ("0x1b59", "0:tcp"),
        ("ssh", "0:tcp"),
        ("", "0:tcp"),
        ("1,", "1:tcp,0:tcp"),
        ("1,,2", "1:tcp,0:tcp,2:tcp"),
        ("-1", "65535:tcp"),
        ("-58535", "7001:tcp"),
        ("4294974297", "7001:tcp"),
        ("99999999999999999999", "65535:tcp"),
        ("1: uDp :junk", "1:udp"),
        ("7001 : udp", "7001:udp"),
    ] {
        assert_eq!(ports(text), expected, "{text:?}");
    }
    assert_eq!(
        sequence("7001", "d").unwrap(),
        [Step::Port(Port { proto: Proto::Tcp, number: 7001 })]
    );
}

#[test]
fn later_flags_win_over_earlier_ones() {
    assert_eq!(door("sequence=1\ntcpflags = syn,!syn").flags, TcpFlags { set: 0, unset: 2 });
    assert_eq!(door("sequence=1\ntcpflags = !fin,FIN,urg").flags, TcpFlags { set: 33, unset: 0 });
}

#[test]
fn names_are_cut_and_lines_are_cut() {
    let long = "n".repeat(300);
    assert_eq!(parse(&format!("[{long}]\nsequence=1\n")).unwrap().doors[0].name, "n".repeat(127));
    let umlauts = "ä".repeat(100);
    assert_eq!(parse(&format!("[{umlauts}]\nsequence=1\n")).unwrap().doors[0].name, "ä".repeat(63));
    let interface = parse(&format!("[options]\ninterface = {long}\n")).unwrap().interface;
    assert_eq!(interface, Some("n".repeat(31)));
    let command = format!("[d]\nsequence=1\ncommand={}\nbad\n", "x".repeat(4095 - 8));
    assert_eq!(
        message(&command),
        "config: line 5: syntax error",
        "the newline itself is read as line 4"
    );
    let command = format!("[d]\nsequence=1\ncommand={}\n", "x".repeat(5000));
    assert_eq!(message(&command), "config: line 4: syntax error");
}

#[test]
fn an_empty_file_and_a_file_of_options_only_are_not_errors() {
    for text in ["", "\n", "[options]\n", "# x"] {
        assert!(parse(text).unwrap().doors.is_empty());
    }
}

#[test]
fn latin1_is_allowed_in_comments_only() {
    let read = |text: &[u8]| read(text, false, Strictness::Knockd, &mut no_file, &mut |_| ());
    assert!(read(b"# \xe4\n[d]\nsequence=1\n").is_ok());
    assert_eq!(read(b"[\xe4]\nsequence=1\n").unwrap_err().what, Wrong::NotText);
}

#[test]
fn the_interface_of_the_command_line_wins_and_of_several_the_first() {
    let text = "[options]\ninterface =\ninterface = a\ninterface = b\n";
    assert_eq!(parse(text).unwrap().interface.as_deref(), Some("a"));
    assert_eq!(
        read(text.as_bytes(), true, Strictness::Knockd, &mut no_file, &mut |_| ())
            .unwrap()
            .interface,
        None
    );
}

#[test]
fn one_time_sequences_and_a_fixed_one_follow_their_order_in_the_file() {
    let mut open = |path: &Path| {
        assert_eq!(path, Path::new("/ots"));
        Ok(b" 70000\n 7101,7102\n".to_vec())
    };
    let mut notes = Vec::new();
    let text = "[d]\nsequence = 1\none_time_sequences = /ots\n[e]\none_time_sequences = /ots\nsequence = 2\n";
    let conf =
        read(text.as_bytes(), false, Strictness::Knockd, &mut open, &mut |note| notes.push(note))
            .unwrap();
    assert_eq!(conf.doors[0].sequence, [Step::tcp(7101), Step::tcp(7102)]);
    assert_eq!(conf.doors[1].sequence, [Step::tcp(2)]);
    assert!(conf.doors.iter().all(|door| door.one_time_sequences.is_some()));
    assert_eq!(conf.doors.iter().map(|door| door.fixed_first).collect::<Vec<_>>(), [false, true]);
    let traced =
        ["new sequence for door d: 7101:tcp,7102:tcp", "config: d: sequence: 7101:tcp,7102:tcp"];
    assert!(notes.windows(2).any(|two| two == traced.map(|text| ParseNote::Trace(text.into()))));
    let skipped = notes.iter().filter(|note| matches!(note, ParseNote::Skipped(_))).count();
    assert_eq!(skipped, 2);
    let mut used = |_: &Path| Ok(b"#7101\n".to_vec());
    let error =
        read(text.as_bytes(), false, Strictness::Knockd, &mut used, &mut |_| ()).unwrap_err();
    assert_eq!(error.to_string(), one_time::none_left("d"));
    let text = "[d]\none_time_sequences = /ots\n[e]\nsequence = 2\n";
    let conf = read(text.as_bytes(), false, Strictness::ShutDoor, &mut used, &mut |_| ()).unwrap();
    assert_eq!(conf.doors[0].sequence, [], "shut, and the other one is served");
    assert_eq!(conf.doors[1].sequence, [Step::tcp(2)]);
    let without = read(b"[d]\ntimeout = 5\n", false, Strictness::ShutDoor, &mut used, &mut |_| ())
        .unwrap_err();
    assert_eq!(
        without.what,
        Wrong::Empty("d".into()),
        "a door without any sequence is a mistake all the same"
    );
}

#[test]
fn the_trace_names_what_was_read() {
    let mut trace = Vec::new();
    let text = "[options]\nusesyslog\ninterface = i\n[d]\nsequence = 1,2:udp\ntimeout=5\ntcpflags=syn,!ack\n";
    let mut keep = |note| match note {
        ParseNote::Trace(text) => trace.push(text),
        ParseNote::Skipped(_) => {}
    };
    read(text.as_bytes(), false, Strictness::Knockd, &mut no_file, &mut keep).unwrap();
    assert_eq!(
        trace,
        [
            "config: new section: 'options'",
            "config: usesyslog",
            "config: interface: i",
            "config: new section: 'd'",
            "config: d: sequence: 1:tcp,2:udp",
            "config: d: seq_timeout: 5",
            "config: tcp flag: SYN",
            "config: tcp flag: !ACK",
        ]
    );
}
