//! The columns of the grants in the picture of `toctocd top`: their widths and texts.

use crate::app::admin::{GrantLine, time_of_day};

/// Columns below which ports are not shown.
const PORTS: usize = 11;

/// The widths of the columns of grants.
pub(super) struct GrantColumns {
    client: usize,
    service: usize,
    address: usize,
    pub(super) bar: usize,
    width: usize,
}

impl GrantColumns {
    /// Columns for these grants in so many columns of the terminal: the address is shown whole as
    /// long as the bar keeps four cells.
    pub(super) fn new(grants: &[GrantLine], width: u16) -> GrantColumns {
        let width = usize::from(width);
        let longest = |name: fn(&GrantLine) -> &String| {
            grants.iter().map(|grant| name(grant).chars().count()).max().unwrap_or(0)
        };
        let client = longest(|grant| &grant.client).clamp(6, 20);
        let service = longest(|grant| &grant.service).clamp(7, 16);
        // The mark, gaps, time left, end.
        let fixed = 2 + client + 2 + service + 2 + 2 + 1 + 6 + 2 + 8;
        let rest = width.saturating_sub(fixed);
        let address = longest(|grant| &grant.address).clamp(4, rest.saturating_sub(4).max(4));
        let bar = rest.saturating_sub(address).clamp(4, 30);
        GrantColumns { client, service, address, bar, width }
    }

    pub(super) fn time_head(&self) -> String {
        format!("{:bar$} {:>6}  {:8}", "LEFT", "", "UNTIL", bar = self.bar)
    }

    pub(super) fn row(
        &self, client: &str, service: &str, address: &str, time: &str, ports: &str,
    ) -> String {
        let GrantColumns { client: c, service: s, address: a, .. } = *self;
        let row = format!(
            "  {:c$}  {:s$}  {:a$}  {time}",
            cut(client, c),
            cut(service, s),
            cut(address, a)
        );
        let row = cut_off(&row, self.width);
        match self.width.saturating_sub(row.chars().count() + 2) {
            // A part of a port would be another port.
            0..PORTS => row,
            room => format!("{row}  {}", cut(ports, room)),
        }
    }
}

/// The cells of its bar that are still full: one as long as there is time left.
pub(super) fn filled(grant: &GrantLine, cells: usize) -> usize {
    let whole = grant.seconds.max(1);
    let left = grant.seconds_left.min(whole);
    let cells = u64::try_from(cells).unwrap_or(0);
    usize::try_from((left * cells).div_ceil(whole)).unwrap_or(0)
}

/// `28 s`, `45 min`, `20 h`, `6 d`.
pub(super) fn left(seconds: u64) -> String {
    match seconds {
        0..100 => format!("{seconds} s"),
        100..6_000 => format!("{} min", seconds / 60),
        6_000..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The time of its end, or the day if that is far.
pub(super) fn until(grant: &GrantLine) -> &str {
    match grant.seconds_left {
        0..86_400 => time_of_day(&grant.until),
        _ => grant.until.get(5..10).unwrap_or(&grant.until),
    }
}

/// The text, with two dots at its end if it is longer than that.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(2)).collect();
    short += "..";
    cut_off(&short, width)
}

fn cut_off(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}
