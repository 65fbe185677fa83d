//! The state of `toctocd top` without a picture: what the gateway said last, what is selected, what
//! is asked. See `view` for the picture.

use std::collections::VecDeque;

use crate::app::admin::{GatewayOverview, GrantLine, GrantPage};
use crate::core::types::Fault;
use crate::edge::screen::Input;

/// The most seconds of junk that are remembered: more than any terminal has columns.
const SECONDS: usize = 600;

/// What the gateway is asked for each second: its overview, and so many grants after one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub after: Option<String>,
    pub most: u16,
}

/// The answer to it.
pub struct Answer {
    pub wanted: Wanted,
    pub overview: GatewayOverview,
    pub page: GrantPage,
}

/// What the loop must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Quit,
    /// Ask now: another page is shown.
    Ask,
    /// End the grant of this name.
    Close(String),
    /// Revoke the client of this name.
    Revoke(String),
}

/// A question to the person, which `y` answers with yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Close(String),
    Revoke(String),
}

/// Why the picture is old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub what: String,
    /// The local time of the first failure.
    pub since: String,
}

/// The beginning of a page of grants.
#[derive(Clone, Debug, Default)]
struct Place {
    after: Option<String>,
    /// The grants before it, when it was reached.
    before: usize,
}

#[derive(Default)]
pub struct Model {
    pub overview: Option<GatewayOverview>,
    pub trouble: Option<Trouble>,
    /// The grants that are shown.
    pub grants: Vec<GrantLine>,
    pub selected: usize,
    pub question: Option<Question>,
    /// What came of the last order.
    pub said: Option<String>,
    /// Junk of each second, the newest last.
    pub junk: VecDeque<u64>,
    /// All junk, as last told by the process with this id.
    junk_before: Option<(u32, u64)>,
    /// The pages before this one, and this one.
    places: Vec<Place>,
    next: Option<String>,
    /// The rows that the picture has for grants.
    rows: u16,
}

impl Model {
    /// What to ask for.
    pub fn wanted(&self) -> Wanted {
        let after = self.places.last().and_then(|place| place.after.clone());
        Wanted { after, most: self.rows.max(1) }
    }

    /// Takes note of the rows for grants; true if the gateway must be asked for so many.
    pub fn set_rows(&mut self, rows: u16) -> bool {
        let is_new = rows != self.rows;
        self.rows = rows;
        self.grants.truncate(usize::from(rows.max(1)));
        self.selected = self.selected.min(self.grants.len().saturating_sub(1));
        is_new
    }

    /// The number of the first grant that is shown, counted from 1.
    pub fn first_row(&self) -> usize {
        self.places.last().map_or(0, |place| place.before) + 1
    }

    /// The grant that is selected.
    pub fn grant(&self) -> Option<&GrantLine> {
        self.grants.get(self.selected)
    }

    /// Takes an answer. One about a page that is not shown any more only has the overview.
    pub fn answer(&mut self, answer: Answer) {
        let Answer { wanted, overview, page } = answer;
        self.count_junk(&overview);
        self.trouble = None;
        self.overview = Some(overview);
        if wanted.after != self.wanted().after {
            return;
        }
        self.grants = page.lines;
        self.grants.truncate(usize::from(self.rows.max(1)));
        self.next = page.next;
        if self.grants.is_empty() && self.places.pop().is_some() {
            // All of this page have ended.
            return;
        }
        self.selected = self.selected.min(self.grants.len().saturating_sub(1));
    }

    /// The gateway does not answer. `now`: the local time.
    pub fn failed(&mut self, fault: &Fault, now: &str) {
        let since = match self.trouble.take() {
            Some(trouble) => trouble.since,
            None => now.to_owned(),
        };
        self.trouble = Some(Trouble { what: fault.what.clone(), since });
        self.junk_before = None;
    }

    /// Tells what came of an order.
    pub fn told(&mut self, said: String) {
        self.said = Some(said);
    }

    fn count_junk(&mut self, overview: &GatewayOverview) {
        let pid = overview.status.pid;
        let now = overview.status.packets.junk();
        let before = self.junk_before.replace((pid, now));
        // Another process counts from nothing, and after a gap nobody knows when it came.
        if let Some((known, before)) = before
            && known == pid
        {
            self.junk.push_back(now.saturating_sub(before));
            self.junk.drain(..self.junk.len().saturating_sub(SECONDS));
        }
    }

    /// What the person did.
    pub fn input(&mut self, input: Input) -> Option<Order> {
        if input == Input::Interrupt {
            return Some(Order::Quit);
        }
        if input == Input::Resized {
            return None;
        }
        if let Some(question) = self.question.take() {
            return match (input, question) {
                (Input::Character('y' | 'Y'), Question::Close(name)) => Some(Order::Close(name)),
                (Input::Character('y' | 'Y'), Question::Revoke(name)) => Some(Order::Revoke(name)),
                _ => {
                    self.said = Some("nothing was changed".to_owned());
                    None
                }
            };
        }
        self.said = None;
        match input {
            Input::Character('q') => return Some(Order::Quit),
            Input::Up | Input::Character('k') if self.selected > 0 => self.selected -= 1,
            Input::Up | Input::Character('k') => {
                let order = self.page_back()?;
                self.selected = usize::from(self.rows).saturating_sub(1);
                return Some(order);
            }
            Input::Down | Input::Character('j') if self.selected + 1 < self.grants.len() => {
                self.selected += 1;
            }
            Input::Down | Input::PageDown | Input::Character('j' | ' ') => {
                return self.page_forward();
            }
            Input::PageUp => return self.page_back(),
            Input::Home => {
                self.places.clear();
                self.selected = 0;
                return Some(Order::Ask);
            }
            Input::Character('e') => self.ask_to_close(),
            Input::Character('r') => self.ask_to_revoke(),
            _ => {}
        }
        None
    }

    fn page_forward(&mut self) -> Option<Order> {
        let after = self.next.take()?;
        let before = self.first_row() - 1 + self.grants.len();
        self.places.push(Place { after: Some(after), before });
        self.selected = 0;
        Some(Order::Ask)
    }

    fn page_back(&mut self) -> Option<Order> {
        self.places.pop()?;
        self.selected = 0;
        Some(Order::Ask)
    }

    fn ask_to_close(&mut self) {
        self.question = self.grant().map(|grant| Question::Close(grant.grant.clone()));
    }

    /// A door is no client: its grants can be ended, and the configuration has the rest.
    fn ask_to_revoke(&mut self) {
        let Some(grant) = self.grant() else { return };
        // A client's name is one word.
        match grant.client.contains(' ') {
            true => self.said = Some(format!("{} is no client: e ends the grant", grant.client)),
            false => self.question = Some(Question::Revoke(grant.client.clone())),
        }
    }
}

#[cfg(test)]
mod tests;
