//! `toctocd top`: the running gateway on one screen, each second anew. The loop here asks, draws and
//! listens for keys; `model` has the state, `view` the picture.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use serde_json::json;

use super::admin::{self, GatewayOverview, GrantPage};
use super::args::toctocd::Close;
use super::load::{self, Reach};
use super::output::CommandOutput;
use super::{close, provision};
use crate::config::Settings;
use crate::core::types::Fault;
use crate::edge::screen::{self, Screen};
use crate::edge::{clock, log};
use model::{Answer, Model, Order, Wanted};
use view::{COLUMNS, Look, ROWS};

pub mod model;
pub mod view;

/// The time between two looks at the gateway.
const EACH: Duration = Duration::from_secs(1);
/// How long the loop waits for a key before it looks whether an answer has come.
const TURN: Duration = Duration::from_millis(50);

/// Shows the gateway until somebody quits; or prints it once.
///
/// # Errors
/// There is no terminal; or, once, no gateway answers.
pub fn top(config: &Path, once: bool) -> Result<CommandOutput, Fault> {
    let reach = load::reach(config);
    if once {
        return reach.note(print_once(&reach));
    }
    if !screen::exists() {
        return Err(Fault::new(
            "`toctocd top` needs a terminal, and here is none",
            "`toctocd top --once` prints one picture, and `--json` the same for a program",
        ));
    }
    watch(config, reach).map_err(no_terminal)?;
    Ok(CommandOutput::out(String::new()))
}

fn no_terminal(error: io::Error) -> Fault {
    let what = format!("the terminal cannot show the picture: {error}");
    Fault::new(what, "`toctocd top --once` prints it")
}

fn print_once(reach: &Reach) -> Result<CommandOutput, Fault> {
    let size = terminal_size::terminal_size_of(io::stdout());
    let (width, height) = size.map_or((COLUMNS, ROWS), |(width, height)| (width.0, height.0));
    let area = Rect::new(0, 0, width.max(COLUMNS), height.max(ROWS));
    let mut model = Model::default();
    // The alarms that the first answer tells of take their rows from those of the grants.
    model.set_rows(area.height);
    let answer = ask(&reach.settings, model.wanted())?;
    let value = json!({ "overview": answer.overview, "grants": answer.page.lines });
    model.answer(answer);
    model.set_rows(view::grant_rows(&model, area));
    let mut buffer = Buffer::empty(area);
    let look = Look { has_colour: false, ..look() };
    view::render(&model, look, area, &mut buffer);
    Ok(CommandOutput { value: Some(value), ..CommandOutput::data(text(&buffer)) })
}

/// The picture as lines of text.
pub fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for row in buffer.content.chunks(usize::from(buffer.area.width.max(1))) {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn ask(settings: &Settings, wanted: Wanted) -> Result<Answer, Fault> {
    let overview: GatewayOverview = admin::ask_overview(settings)?;
    let page: GrantPage = admin::ask_grants(settings, wanted.after.clone(), wanted.most)?;
    Ok(Answer { wanted, overview, page })
}

/// What this terminal can show.
fn look() -> Look {
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].map(of).into_iter().find(|one| !one.is_empty());
    let locale = locale.unwrap_or_default().to_lowercase();
    Look {
        has_colour: of("NO_COLOR").is_empty() && of("TERM") != "dumb",
        has_blocks: locale.contains("utf-8") || locale.contains("utf8"),
    }
}

/// Work that may take long, and what came of it.
enum Job {
    Look(Wanted),
    Close(String),
    Revoke(String),
}

enum Done {
    Looked(Box<Result<Answer, Fault>>),
    /// What came of an order, for the person.
    Told(String),
}

/// Draws and listens, until somebody quits.
fn watch(config: &Path, reach: Reach) -> io::Result<()> {
    // Before any thread, so that signals reach the one that puts the terminal back.
    let mut screen = Screen::open()?;
    let (jobs, todo) = channel();
    let (tell, told) = channel();
    let config = config.to_owned();
    std::thread::spawn(move || work(&config, &reach, &todo, &tell));
    let look = look();
    let mut model = Model::default();
    let mut next = Instant::now();
    let mut waits = false;
    let mut is_old = true;
    loop {
        if is_old {
            screen.draw(|frame| {
                let area = frame.area();
                if model.set_rows(view::grant_rows(&model, area)) {
                    next = Instant::now();
                }
                view::render(&model, look, area, frame.buffer_mut());
            })?;
        }
        if !waits && next <= Instant::now() {
            waits = jobs.send(Job::Look(model.wanted())).is_ok();
            next = Instant::now() + EACH;
        }
        is_old = false;
        if let Some(input) = screen.input(TURN)? {
            is_old = true;
            match model.input(input) {
                None => {}
                Some(Order::Quit) => return Ok(()),
                Some(Order::Ask) => next = Instant::now(),
                // Without the worker nothing answers, and the loop says so.
                Some(Order::Close(name)) => drop(jobs.send(Job::Close(name))),
                Some(Order::Revoke(name)) => drop(jobs.send(Job::Revoke(name))),
            }
        }
        for done in told.try_iter() {
            is_old = true;
            match done {
                Done::Told(said) => {
                    model.told(said);
                    next = Instant::now();
                }
                Done::Looked(result) => {
                    waits = false;
                    match *result {
                        Ok(answer) => model.answer(answer),
                        Err(fault) => model.failed(&fault, &log::clock_time(clock::now().wall)),
                    }
                }
            }
        }
    }
}

/// The thread beside the loop: a gateway that hangs must not keep anybody from quitting.
fn work(config: &Path, reach: &Reach, todo: &Receiver<Job>, tell: &Sender<Done>) {
    for job in todo {
        let done = match job {
            Job::Look(wanted) => Done::Looked(Box::new(ask(&reach.settings, wanted))),
            Job::Close(grant) => Done::Told(outcome(close::close(reach, &Close::one(grant)))),
            Job::Revoke(name) => Done::Told(outcome(provision::revoke(config, &name))),
        };
        if tell.send(done).is_err() {
            return;
        }
    }
}

/// What came of an order, on one line.
fn outcome(result: Result<CommandOutput, Fault>) -> String {
    let text = match result {
        Ok(output) => format!("{}{}", output.out.as_str(), output.err),
        Err(fault) => fault.what,
    };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").replace(":; ", ": ")
}
