//! The picture of `toctocd top`: a model and a size in, cells out. Nothing in it depends on colour:
//! what matters has a word too.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;
use ratatui::text::{Line, Span};
use ratatui::widgets::{RenderDirection, Sparkline, Widget};

use super::model::{Model, Question};
use crate::app::admin::{
    GatewayOverview, GatewayStatus, GrantLine, guard_text, interfaces_text, time_of_day,
};
use crate::app::output::count;
use crate::core::event::Level;
use table::{GrantColumns, cut, filled, left, until};

mod table;

/// The smallest picture; a smaller terminal shows a part of it.
pub const COLUMNS: u16 = 80;
pub const ROWS: u16 = 24;

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub has_colour: bool,
    /// True if its characters are those of Unicode.
    pub has_blocks: bool,
}

impl Look {
    fn style(self, colour: Color, modifier: Modifier) -> Style {
        let style = Style::new().add_modifier(modifier);
        if self.has_colour { style.fg(colour) } else { style }
    }

    fn good(self) -> Style {
        self.style(Color::Green, Modifier::empty())
    }

    fn bad(self) -> Style {
        self.style(Color::Red, Modifier::BOLD)
    }

    fn warning(self) -> Style {
        self.style(Color::Yellow, Modifier::BOLD)
    }

    fn title(self) -> Style {
        self.style(Color::Cyan, Modifier::BOLD)
    }

    fn full(self) -> &'static str {
        if self.has_blocks { "█" } else { "#" }
    }

    fn empty(self) -> &'static str {
        if self.has_blocks { "░" } else { "." }
    }

    fn rule(self) -> &'static str {
        if self.has_blocks { "─" } else { "-" }
    }

    fn levels(self) -> bar::Set<'static> {
        match self.has_blocks {
            true => bar::NINE_LEVELS,
            false => bar::Set {
                empty: " ",
                one_eighth: ".",
                one_quarter: ".",
                three_eighths: ":",
                half: ":",
                five_eighths: "|",
                three_quarters: "|",
                seven_eighths: "#",
                full: "#",
            },
        }
    }
}

/// Where everything is.
struct Plan {
    alarms: Rect,
    grants: Rect,
    packets: Rect,
    clients: Rect,
    events: Rect,
    junk: Rect,
    footer: Rect,
}

impl Plan {
    fn new(area: Rect, alarms: usize) -> Plan {
        let Rect { x, y, width, height } = area;
        let most = if height < 30 { 2 } else { 6 };
        let alarms = u16::try_from(alarms.min(most)).unwrap_or(0);
        let counters = (height / 5).clamp(4, 12);
        let events = counters - 1;
        let spark = if height < 30 { 1 } else { 3 };
        let below = (counters + 1) + (events + 1) + (spark + 1) + 1;
        let top = 3 + alarms;
        let grants = height.saturating_sub(top + below);
        let left = width / 20 * 11 + width % 20 * 11 / 20;
        let counters_y = y + top + grants;
        let events_y = counters_y + counters + 1;
        let row = |at: u16, height: u16| Rect { x, y: at, width, height }.intersection(area);
        Plan {
            alarms: row(y + 3, alarms),
            grants: row(y + top, grants),
            packets: Rect { width: left, ..row(counters_y, counters + 1) },
            clients: Rect {
                x: x + left + 1,
                width: width.saturating_sub(left + 1),
                ..row(counters_y, counters + 1)
            },
            events: row(events_y, events + 1),
            junk: row(events_y + events + 1, spark + 1),
            footer: row(y + height.saturating_sub(1), 1),
        }
    }
}

/// The rows for grants in a picture of this size.
pub fn grant_rows(model: &Model, area: Rect) -> u16 {
    Plan::new(area, alarms(model).len()).grants.height.saturating_sub(2)
}

/// Draws the picture.
pub fn render(model: &Model, look: Look, area: Rect, buffer: &mut Buffer) {
    let mut canvas = Canvas { look, buffer };
    let alarms = alarms(model);
    let plan = Plan::new(area, alarms.len());
    canvas.head(model, area);
    canvas.alarms(&alarms, plan.alarms);
    if let Some(overview) = &model.overview {
        canvas.grants(model, overview, plan.grants);
        canvas.packets(overview, plan.packets);
        canvas.clients(overview, plan.clients);
        canvas.events(overview, plan.events);
        canvas.junk(model, overview, plan.junk);
    }
    canvas.footer(model, plan.footer);
}

/// What an admin must know before anything else, the worst first.
fn alarms(model: &Model) -> Vec<String> {
    let mut all = Vec::new();
    let Some(GatewayOverview { status, .. }) = &model.overview else { return all };
    if status.clock != "sure" {
        all.push(format!("clock: {}", status.clock));
    }
    if status.state != "intact" {
        all.push(format!("state: {}", status.state));
    }
    if !status.break_glass.is_empty() {
        all.push(format!("ALWAYS OPEN to {}", status.break_glass.join(", ")));
    }
    all.extend(status.degraded.iter().map(|line| format!("degraded: {line}")));
    all
}

struct Canvas<'b> {
    look: Look,
    buffer: &'b mut Buffer,
}

impl Canvas<'_> {
    /// Writes a line, cut off where the area ends.
    fn line(&mut self, area: Rect, row: u16, spans: Vec<Span<'_>>) {
        if row < area.height {
            self.buffer.set_line(area.x, area.y + row, &Line::from(spans), area.width);
        }
    }

    /// The title of a part, with a rule to its right.
    fn title(&mut self, area: Rect, text: &str) {
        let text = cut(text, usize::from(area.width));
        let rest = usize::from(area.width).saturating_sub(text.chars().count() + 1);
        let rule = format!(" {}", self.look.rule().repeat(rest));
        let style = self.look.title();
        self.line(area, 0, vec![Span::styled(text, style), Span::raw(rule)]);
    }

    fn head(&mut self, model: &Model, area: Rect) {
        let Some(GatewayOverview { status, time, .. }) = &model.overview else {
            let said = match &model.trouble {
                Some(trouble) => Span::styled(trouble.what.clone(), self.look.bad()),
                None => Span::raw("waiting for the gateway"),
            };
            self.line(area, 0, vec![Span::styled("toctocd  ", self.look.title()), said]);
            return;
        };
        let name = format!("toctocd {}", status.version);
        let rest = format!("  pid {}  since {}", status.pid, status.since);
        self.line(area, 0, vec![Span::styled(name, self.look.title()), Span::raw(rest)]);
        let clock = Rect { x: area.x + area.width.saturating_sub(8), width: 8, ..area };
        self.line(clock.intersection(area), 0, vec![Span::raw(time.clone())]);
        if let Some(trouble) = &model.trouble {
            let text = format!("NO ANSWER since {}: {}", trouble.since, trouble.what);
            let text = cut(&text, usize::from(area.width));
            self.line(area, 1, vec![Span::styled(text, self.look.bad().reversed())]);
        } else {
            let guard = guard_text(status);
            let style = if guard == "up" { self.look.good() } else { self.look.bad() };
            let guard = cut(&guard, usize::from(area.width).saturating_sub(9));
            self.line(area, 1, vec![Span::raw("guard    "), Span::styled(guard, style)]);
        }
        let facts = cut(&facts(status), usize::from(area.width));
        self.line(area, 2, vec![Span::raw(facts)]);
    }

    fn alarms(&mut self, alarms: &[String], area: Rect) {
        let shown = usize::from(area.height);
        for (row, text) in (0..area.height).zip(alarms) {
            let hidden = alarms.len() - shown;
            let more = match usize::from(row) + 1 == shown && hidden > 0 {
                true => format!(" (and {hidden} more: toctocd status)"),
                false => String::new(),
            };
            let room = usize::from(area.width).saturating_sub(more.chars().count());
            let text = cut(text, room) + &more;
            self.line(area, row, vec![Span::styled(text, self.look.warning())]);
        }
    }

    fn grants(&mut self, model: &Model, overview: &GatewayOverview, area: Rect) {
        self.title(area, &grants_title(model, overview));
        let columns = GrantColumns::new(&model.grants, area.width);
        let head = columns.row("CLIENT", "SERVICE", "FROM", &columns.time_head(), "PORTS");
        self.line(area, 1, vec![Span::styled(head, Style::new().add_modifier(Modifier::BOLD))]);
        if model.grants.is_empty() {
            self.line(area, 2, vec![Span::raw("  nothing is open")]);
        }
        for (index, grant) in model.grants.iter().enumerate() {
            let row = u16::try_from(index).unwrap_or(u16::MAX).saturating_add(2);
            if row >= area.height {
                break;
            }
            self.grant(&columns, grant, index == model.selected, area, row);
        }
    }

    fn grant(
        &mut self, columns: &GrantColumns, grant: &GrantLine, selected: bool, area: Rect, row: u16,
    ) {
        let full = filled(grant, columns.bar);
        let bar = self.look.full().repeat(full) + &self.look.empty().repeat(columns.bar - full);
        let time = format!("{bar} {:>6}  {}", left(grant.seconds_left), until(grant));
        let ports = match grant.ports.is_empty() {
            true => "by commands".to_owned(),
            false => grant.ports.join(" "),
        };
        let text = columns.row(&grant.client, &grant.service, &grant.address, &time, &ports);
        let style = match (grant.seconds_left, selected) {
            (_, true) => Style::new().reversed(),
            (0..10, _) => self.look.style(Color::Red, Modifier::empty()),
            (10..30, _) => self.look.style(Color::Yellow, Modifier::empty()),
            _ => Style::new(),
        };
        // The mark is for terminals that show neither colour nor reverse.
        let mark = if selected { ">" } else { " " };
        let text = mark.to_owned() + text.get(1..).unwrap_or_default();
        self.line(area, row, vec![Span::styled(text, style)]);
    }

    fn packets(&mut self, overview: &GatewayOverview, area: Rect) {
        let packets = &overview.status.packets;
        self.title(area, &format!("Packets: {} reached this gateway", packets.received));
        let lines = packets.lines();
        let width = lines.iter().map(|line| line.number.to_string().len()).max().unwrap_or(0);
        for (row, line) in (1..area.height).zip(&lines) {
            let hidden = lines.len().saturating_sub(usize::from(area.height - 1));
            let text = match row + 1 == area.height && hidden > 0 {
                true => format!("{:>width$} more reasons: toctocd status", hidden + 1),
                false => format!("{:>width$} {}", line.number, line.words()),
            };
            self.line(area, row, vec![Span::raw(cut(&text, usize::from(area.width)))]);
        }
    }

    fn clients(&mut self, overview: &GatewayOverview, area: Rect) {
        self.title(area, "Last knocks (answered/refused)");
        let clients = &overview.clients;
        if clients.is_empty() {
            self.line(area, 1, vec![Span::raw("no client has knocked")]);
        }
        let width = clients.iter().map(|one| one.client.chars().count()).max().unwrap_or(0);
        let width = width.clamp(5, 12);
        for (row, one) in (1..area.height).zip(clients) {
            let name = cut(&one.client, width);
            let numbers = format!("{}/{}", one.answered, one.refused);
            let text = format!(
                "{name:width$} {numbers:>5} {} {} from {}",
                one.at.get(..5).unwrap_or(&one.at),
                one.last,
                one.from
            );
            let style = if one.refused > 0 { self.look.warning() } else { Style::new() };
            self.line(area, row, vec![Span::styled(cut(&text, usize::from(area.width)), style)]);
        }
    }

    fn events(&mut self, overview: &GatewayOverview, area: Rect) {
        self.title(area, "Last events");
        for (row, one) in (1..area.height).zip(overview.events.iter().rev()) {
            let event = &one.event;
            let is_bad = Level::of(&event.level).is_none_or(|level| level <= Level::Warning);
            // The mark is for terminals without colour.
            let mark = if is_bad { "!" } else { " " };
            let mut text = format!("{} {mark} {}", time_of_day(&event.time), event.text);
            if let Some(id) = &event.id {
                text += &format!(" (id {id})");
            }
            let style = if is_bad { self.look.warning() } else { Style::new() };
            self.line(area, row, vec![Span::styled(cut(&text, usize::from(area.width)), style)]);
        }
    }

    fn junk(&mut self, model: &Model, overview: &GatewayOverview, area: Rect) {
        let junk = overview.status.packets.junk();
        let title = match model.junk.back() {
            Some(last) => format!("Junk: {last} in the last second, {junk} in all"),
            None => format!("Junk: {junk} packets in all"),
        };
        self.title(area, &title);
        let below =
            Rect { y: area.y + 1.min(area.height), height: area.height.saturating_sub(1), ..area };
        let shown = model.junk.iter().rev().take(usize::from(area.width)).copied();
        Sparkline::default()
            .data(shown.collect::<Vec<u64>>())
            .direction(RenderDirection::RightToLeft)
            .bar_set(self.look.levels())
            .style(self.look.style(Color::Magenta, Modifier::empty()))
            .render(below, self.buffer);
    }

    fn footer(&mut self, model: &Model, area: Rect) {
        let ask = Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED);
        let (text, style) = match (&model.question, &model.said) {
            (Some(Question::Close(grant)), _) => (format!("End the grant {grant}? y/n"), ask),
            (Some(Question::Revoke(client)), _) => {
                (format!("Revoke {client}: grants end, and the profile stops working? y/n"), ask)
            }
            (None, Some(said)) => (said.clone(), self.look.warning()),
            (None, None) => (HELP.to_owned(), Style::new().add_modifier(Modifier::DIM)),
        };
        let text = cut(&text, usize::from(area.width));
        self.line(area, 0, vec![Span::styled(text, style)]);
    }
}

const HELP: &str = "up/down select  PgUp/PgDn page  e end this grant  r revoke its client  q quit";

fn facts(status: &GatewayStatus) -> String {
    let listens = match status.interfaces.is_empty() {
        true => "no listener".to_owned(),
        false => format!("udp/{} on {}", status.knock_port, interfaces_text(&status.interfaces)),
    };
    format!(
        "{listens}  clock {}  state {}  {}, {}",
        if status.clock == "sure" { "sure" } else { "NOT SURE" },
        if status.state == "intact" { "intact" } else { "NOT INTACT" },
        count(status.services, "service"),
        count(status.clients, "client"),
    )
}

fn grants_title(model: &Model, overview: &GatewayOverview) -> String {
    let total = overview.status.grants;
    let mut title = format!("Grants: {total}");
    if model.grants.len() < total && !model.grants.is_empty() {
        let first = model.first_row();
        title += &format!(", {first} to {} shown", first + model.grants.len() - 1);
    }
    let used: Vec<_> = overview.services.iter().filter(|service| service.grants > 0).collect();
    for (service, sign) in used.iter().zip([" (", ", ", ", ", ", "]) {
        title += &format!("{sign}{} {} of {}", service.service, service.grants, service.max_grants);
    }
    if !used.is_empty() {
        title.push(')');
    }
    title
}

#[cfg(test)]
pub(super) mod tests;
