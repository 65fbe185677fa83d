//! Keys that lead to another widget, one for each picture: a slow machine gets several at once, and
//! the second is for the widget that the first one leads to.

use eframe::egui::{Event, Key};

/// Leaves in `events` what was typed `later` than the last picture, up to the first such key, and
/// the rest in `later`.
pub fn one_step(events: &mut Vec<Event>, later: &mut Vec<Event>) {
    later.append(events);
    let end = later.iter().position(leads_elsewhere).map_or(later.len(), |index| index + 1);
    events.extend(later.drain(..end));
}

fn leads_elsewhere(event: &Event) -> bool {
    let Event::Key { key, pressed: true, .. } = event else { return false };
    matches!(key, Key::Tab | Key::Enter | Key::Escape | Key::ArrowUp | Key::ArrowDown)
}

#[cfg(test)]
mod tests {
    use eframe::egui::Modifiers;

    use super::*;

    fn key(key: Key, pressed: bool) -> Event {
        Event::Key { key, physical_key: None, pressed, repeat: false, modifiers: Modifiers::NONE }
    }

    #[test]
    fn each_picture_gets_one_key_that_leads_elsewhere_and_nothing_is_lost() {
        let tab = key(Key::Tab, true);
        let enter = key(Key::Enter, true);
        let up = key(Key::Tab, false);
        let text = Event::Text("a".into());
        let mut later = Vec::new();
        let mut events = vec![text.clone(), tab.clone(), up.clone(), enter.clone()];
        one_step(&mut events, &mut later);
        assert_eq!(events, [text.clone(), tab]);
        let mut events = vec![text.clone()];
        one_step(&mut events, &mut later);
        assert_eq!(events, [up, enter]);
        let mut events = Vec::new();
        one_step(&mut events, &mut later);
        assert_eq!(events, [text]);
        assert!(later.is_empty());
    }
}
