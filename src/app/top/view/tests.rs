//! Pictures are compared with those in tests/top and docs/top.svg. `TOCTOC_TOP=write` writes them.

use std::fs;
use std::path::Path;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::app::admin::tests::sound;
use crate::app::admin::{ClientActivity, GrantPage, NumberedEvent, PacketCounts, ServiceGrants};
use crate::app::top::model::Answer;
use crate::core::event::EventKind;
use crate::core::event::KnockId;
use crate::core::types::{Fault, Wall};
use crate::edge::log::{EventRecord, LogEvent};
use crate::edge::screen::Input;

const PLAIN: Look = Look { has_colour: false, has_blocks: true };
const COLOUR: Look = Look { has_colour: true, has_blocks: true };
const ASCII: Look = Look { has_colour: false, has_blocks: false };

pub(in crate::app::top) fn grant(number: u64, service: &str, seconds: u64, left: u64) -> GrantLine {
    let client = format!("client{number}");
    let address = format!("192.0.2.{number}");
    GrantLine {
        grant: format!("{client}/{service}@{address}"),
        client,
        service: service.to_owned(),
        address,
        ports: vec!["22/tcp".to_owned()],
        form: "time".to_owned(),
        until: "2026-11-28T14:03:20+01:00".to_owned(),
        seconds,
        seconds_left: left,
    }
}

/// A sound gateway that has counted so much junk.
pub(in crate::app::top) fn overview(pid: u32, junk: u64) -> GatewayOverview {
    let rejected =
        vec![("unknown-tag".to_owned(), junk), ("clock".to_owned(), 4), ("policy".to_owned(), 2)];
    let packets = PacketCounts {
        received: junk + 4 + 2 + 35 + 3,
        granted: 35,
        closed: 3,
        rejected,
        ..PacketCounts::default()
    };
    GatewayOverview {
        status: GatewayStatus { pid, services: 2, clients: 12, grants: 4, packets, ..sound() },
        services: vec![
            ServiceGrants { service: "ssh".into(), grants: 3, max_grants: 4096 },
            ServiceGrants { service: "rdp".into(), grants: 1, max_grants: 16 },
        ],
        clients: Vec::new(),
        events: Vec::new(),
        time: "14:02:51".into(),
    }
}

/// Event number so many, at that second of the minute.
fn event(number: u64, kind: EventKind, text: &str) -> NumberedEvent {
    let event = LogEvent::new(kind, text).of(KnockId([0x7f, 0x3a, 0x91, 0xc2])).record(Wall(0));
    let time = format!("2026-11-28T14:02:{number:02}+01:00");
    NumberedEvent { number, event: EventRecord { time, ..event } }
}

fn knocked(client: &str, refused: u64, last: &str) -> ClientActivity {
    ClientActivity {
        client: client.into(),
        answered: 9,
        refused,
        last: last.into(),
        from: "203.0.113.7".into(),
        at: "14:02:49".into(),
        seconds_ago: 2,
    }
}

fn show(model: &mut Model, overview: GatewayOverview, lines: Vec<GrantLine>) {
    let page = GrantPage { services: Vec::new(), lines, next: None };
    model.answer(Answer { wanted: model.wanted(), overview, page });
}

/// A gateway on a usual day.
fn busy() -> Model {
    let mut model = Model::default();
    model.set_rows(30);
    let mut alice = grant(7, "ssh", 30, 29);
    alice.client = "alice".into();
    let mut bob = grant(8, "rdp", 3600, 1500);
    bob.client = "bob-at-work".into();
    bob.address = "2001:db8:85a3::8a2e:370:7334".into();
    bob.ports = vec!["3389/tcp".into(), "3389/udp".into()];
    let mut door = grant(9, "ssh", 60, 6);
    door.client = "door side".into();
    let mut robot = grant(10, "ssh", 604_800, 500_000);
    robot.client = "robot".into();
    robot.address = "198.51.100.0/24 port 40000".into();
    robot.ports = Vec::new();
    let junk = [0, 3, 12, 40, 38, 20, 9, 4, 1, 0, 0, 2, 60, 61, 5, 0, 1, 8, 7];
    let mut sum = 1000;
    for number in [0].into_iter().chain(junk) {
        sum += number;
        let mut overview = overview(812, sum);
        overview.clients = vec![
            knocked("alice", 0, "granted"),
            knocked("mallory", 12, "not allowed to this client"),
            knocked("bob-at-work", 1, "granted"),
        ];
        overview.events = vec![
            event(44, EventKind::Granted, "robot: backup to 198.51.100.0/24 for 7 d"),
            event(46, EventKind::Guard, "another program changed table inet toctoc: put back"),
            event(47, EventKind::Granted, "bob-at-work: rdp to 2001:db8:85a3::8a2e:370:7334"),
            event(
                48,
                EventKind::Refused,
                "mallory: refused from 203.0.113.9: ssh is not among its services",
            ),
            event(49, EventKind::Granted, "alice: ssh to 192.0.2.7 for 30 s"),
        ];
        overview.events[1].event.level = "err".into();
        show(&mut model, overview, vec![alice.clone(), bob.clone(), door.clone(), robot.clone()]);
    }
    model
}

fn draw(model: &Model, look: Look, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            let area = frame.area();
            render(model, look, area, frame.buffer_mut());
        })
        .unwrap();
    terminal.backend().buffer().clone()
}

fn compare(name: &str, shown: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("TOCTOC_TOP").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, shown).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == shown, "{name} differs; TOCTOC_TOP=write writes it:\n{shown}");
}

/// The picture of `model` is the one that is kept.
fn look_at(name: &str, model: &Model, look: Look, width: u16, height: u16) {
    let shown = crate::app::top::text(&draw(model, look, width, height));
    assert_eq!(shown.lines().count(), usize::from(height));
    compare(&format!("tests/top/{name}.txt"), &shown);
}

#[test]
fn a_usual_day_at_80x24_and_at_200x50() {
    let mut model = busy();
    look_at("80x24", &model, PLAIN, 80, 24);
    look_at("200x50", &model, PLAIN, 200, 50);
    look_at("80x24-ascii", &model, ASCII, 80, 24);
    model.input(Input::Down);
    model.input(Input::Character('e'));
    look_at("80x24-question", &model, PLAIN, 80, 24);
}

#[test]
fn everything_that_is_wrong_at_80x24() {
    let mut model = busy();
    let mut bad = overview(812, 2000);
    bad.status.guard_off = true;
    bad.status.clock = "the clock shows 7 s less than it did before".into();
    bad.status.break_glass = vec!["192.0.2.1".into()];
    bad.status.degraded = vec!["3 packets were lost for want of room".into()];
    show(&mut model, bad, Vec::new());
    look_at("80x24-wrong", &model, PLAIN, 80, 24);
    model.failed(&Fault::new("no toctocd is running here (/run/toctoc/control)", ""), "14:05:00");
    look_at("80x24-away", &model, PLAIN, 80, 24);
}

#[test]
fn thousands_of_grants_say_which_are_shown() {
    let mut model = busy();
    let rows = grant_rows(&model, Rect::new(0, 0, 80, 24));
    model.set_rows(rows);
    let mut many = overview(812, 1000);
    many.status.grants = 5000;
    let lines: Vec<GrantLine> = (1..=u64::from(rows)).map(|n| grant(n, "ssh", 60, 40)).collect();
    show(&mut model, many, lines);
    let text = crate::app::top::text(&draw(&model, PLAIN, 80, 24));
    assert!(text.contains(&format!("Grants: 5000, 1 to {rows} shown")), "{text}");
    assert!(text.contains(&format!("client{rows} ")), "the last row has room: {text}");
}

#[test]
fn the_first_picture_says_what_is_waited_for() {
    let mut model = Model::default();
    let text = crate::app::top::text(&draw(&model, PLAIN, 80, 24));
    assert!(text.contains("waiting for the gateway"), "{text}");
    model.failed(&Fault::new("no toctocd is running here", ""), "14:05:00");
    let text = crate::app::top::text(&draw(&model, PLAIN, 80, 24));
    assert!(text.contains("no toctocd is running here"), "{text}");
}

#[test]
fn without_colour_the_same_words_are_there_and_no_colour_is() {
    let model = busy();
    let plain = draw(&model, PLAIN, 80, 24);
    let colour = draw(&model, COLOUR, 80, 24);
    assert!(plain.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    assert!(colour.content.iter().any(|cell| cell.fg == Color::Green));
    assert_eq!(crate::app::top::text(&plain), crate::app::top::text(&colour));
}

#[test]
fn no_size_of_the_terminal_breaks_it() {
    let mut model = busy();
    let mut bad = overview(812, 2000);
    bad.status.degraded = vec!["something is wrong".to_owned(); 9];
    bad.clients = vec![knocked("alice", 0, "granted"); 64];
    let lines: Vec<GrantLine> = (1..=60).map(|number| grant(number, "ssh", 0, 40)).collect();
    show(&mut model, bad, lines);
    for width in [1, 2, 7, 20, 79, 80, 81, 300] {
        for height in [1, 2, 3, 9, 23, 24, 29, 30, 100] {
            draw(&model, COLOUR, width, height);
        }
    }
}

#[test]
fn a_bar_runs_down_and_is_never_empty_before_the_end() {
    let cells = |left| filled(&grant(1, "ssh", 60, left), 10);
    assert_eq!([60, 59, 54, 30, 1, 0, 99].map(cells), [10, 10, 9, 5, 1, 0, 10]);
    assert_eq!(
        [99, 100, 5_999, 6_000, 172_799, 172_800].map(left),
        ["99 s", "1 min", "99 min", "1 h", "47 h", "2 d"]
    );
}

/// A picture for docs: the cells of a terminal, as text of its colours.
fn svg(buffer: &Buffer) -> String {
    const WIDE: u16 = 8;
    const HIGH: u16 = 17;
    let (width, height) = (buffer.area.width * WIDE + 16, buffer.area.height * HIGH + 16);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"monospace\" font-size=\"13.3\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#16181d\"/>\n"
    );
    for (row, cells) in (0..).zip(buffer.content.chunks(usize::from(buffer.area.width))) {
        let mut column = 0;
        while column < cells.len() {
            let first = &cells[column];
            let same = |cell: &&ratatui::buffer::Cell| {
                cell.fg == first.fg && cell.modifier == first.modifier
            };
            let run: Vec<_> = cells[column..].iter().take_while(same).collect();
            let text: String = run.iter().map(|cell| cell.symbol()).collect();
            let is_reversed = first.modifier.contains(Modifier::REVERSED);
            let (x, y) = (8 + WIDE * u16::try_from(column).unwrap(), 8 + HIGH * row);
            let long = WIDE * u16::try_from(run.len()).unwrap();
            let colour = match first.fg {
                Color::Red => "#ff6b6b",
                Color::Yellow => "#f5c542",
                Color::Green => "#5fd38d",
                Color::Cyan => "#62c5e6",
                Color::Magenta => "#c792ea",
                _ => "#d7dae0",
            };
            if is_reversed {
                svg += &format!(
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{long}\" height=\"{HIGH}\" fill=\"{colour}\"/>\n"
                );
            }
            if !text.trim().is_empty() {
                let fill = if is_reversed { "#16181d" } else { colour };
                let bold = match first.modifier.contains(Modifier::BOLD) {
                    true => " font-weight=\"bold\"",
                    false => "",
                };
                let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                // Browsers would make one blank of many.
                let text = text.replace(' ', "\u{a0}");
                svg += &format!(
                    "<text x=\"{x}\" y=\"{}\" textLength=\"{long}\" fill=\"{fill}\"{bold}>{text}</text>\n",
                    y + 13
                );
            }
            column += run.len();
        }
    }
    svg + "</svg>\n"
}

#[test]
fn the_picture_in_docs_is_the_picture() {
    let mut model = busy();
    model.input(Input::Down);
    compare("docs/top.svg", &svg(&draw(&model, COLOUR, 100, 26)));
}
