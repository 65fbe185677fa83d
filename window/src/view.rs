//! The picture of the window: draws the model, and passes on what the person does.

use std::time::{Duration, Instant};

use eframe::egui::{
    self, Button, Color32, ComboBox, CornerRadius, Frame, Key, Margin, ProgressBar, Response,
    RichText, ScrollArea, TextEdit, Ui,
};
use toctoc::app::client::ListedState;
use zeroize::Zeroizing;

use crate::connect::{self, HERE, Kind, NotStarted};
use crate::model::{Busy, Model, Note, Opened, Shown, Tone};
use crate::settings::Settings;
use crate::text::{self, Text};
use crate::words::{Language, Words, fill};

mod forms;

/// Time between two pictures while a bar runs down.
const TICK: Duration = Duration::from_millis(200);
const GAP: f32 = 10.0;
const BUTTON_HEIGHT: f32 = 36.0;
/// The colour of the button for what comes next. White text on it has a contrast of 6 to 1.
const PRIMARY: Color32 = Color32::from_rgb(0, 95, 175);

/// All that the window shows.
pub struct View {
    pub model: Model,
    pub language: Language,
    pub settings: Settings,
    /// The user's name for the program, as it is typed.
    user: String,
    /// The profile that `user` belongs to.
    user_of: String,
    /// What is wrong with the connection's program or the settings.
    complaint: Option<String>,
    /// What gets the keyboard with the next picture.
    focus: Option<Focus>,
    /// True while a grant lasts.
    is_open: bool,
    /// True once the text of this result has been copied.
    is_copied: bool,
    /// The answer to the question for a passphrase, for the worker.
    pub answer: Option<Option<Zeroizing<String>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Focus {
    Knock,
    Connect,
    Line,
    Passphrase,
    Copy,
}

impl View {
    pub fn new(model: Model, settings: Settings, locale: &str) -> View {
        let language = settings.language().unwrap_or_else(|| Language::of_locale(locale));
        View {
            model,
            language,
            settings,
            user: String::new(),
            user_of: String::new(),
            complaint: None,
            focus: Some(Focus::Knock),
            is_open: false,
            is_copied: false,
            answer: None,
        }
    }

    /// What gets the keyboard after the worker has said something.
    pub fn after_news(&mut self, now: Instant) {
        self.complaint = None;
        self.is_copied = false;
        self.focus = if self.model.question.is_some() {
            Some(Focus::Passphrase)
        } else if self.model.form.is_some() {
            Some(Focus::Line)
        } else {
            match &self.model.shown {
                Shown::Opened(opened) if opened.left(now).is_some() => Some(Focus::Connect),
                Shown::Pending(_) => Some(Focus::Copy),
                _ => Some(Focus::Knock),
            }
        };
    }

    /// The title: what the window asks, or what came of the last order, for the bar of tasks.
    pub fn title(&self, now: Instant) -> String {
        let words = self.language.words();
        let headline = match (&self.model.question, text::of(words, &self.model.shown, now)) {
            (Some(question), _) if question.is_again => words.wrong_passphrase.to_owned(),
            (Some(_), _) => words.passphrase_wanted.to_owned(),
            (None, Some(text)) => text.headline,
            (None, None) if self.model.form.is_some() => words.join_title.to_owned(),
            (None, None) => return "toctoc".to_owned(),
        };
        format!("{headline} – toctoc")
    }

    pub fn show(&mut self, ui: &mut Ui, now: Instant) {
        Frame::central_panel(ui.style()).inner_margin(Margin::same(16)).show(ui, |ui| {
            ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
                ui.spacing_mut().item_spacing.y = 6.0;
                let words = self.language.words();
                if self.model.question.is_some() {
                    self.show_question(ui, words);
                } else if self.model.form.is_some() {
                    self.show_form(ui, words);
                } else {
                    self.show_choice(ui, words);
                }
                self.show_busy(ui, words);
                self.show_result(ui, words, now);
                ui.add_space(GAP);
                self.show_foot(ui, words);
            });
        });
    }

    fn gets_focus(&mut self, focus: Focus, response: &Response) {
        if self.focus == Some(focus) {
            self.focus = None;
            response.request_focus();
        }
    }

    /// Profile, service, and the button.
    fn show_choice(&mut self, ui: &mut Ui, words: &Words) {
        if self.model.chosen().is_none() {
            if self.model.is_empty() {
                ui.heading(words.no_profile);
            }
            return;
        }
        self.show_profiles(ui, words);
        match self.model.chosen().map(|listed| &listed.state) {
            Some(ListedState::Ready(_)) => self.show_services(ui, words),
            Some(ListedState::Pending) => self.show_pending(ui, words),
            Some(ListedState::Broken(fault)) => {
                let lines = vec![text::fault_text(words, fault)];
                let headline = words.broken.to_owned();
                panel(ui, &Text { tone: Tone::Bad, headline, lines }, |_| {});
            }
            None => {}
        }
    }

    fn show_profiles(&mut self, ui: &mut Ui, words: &Words) {
        let label = ui.label(words.profile).id;
        let mut chosen = None;
        let name = self.model.chosen().map_or("", |listed| &listed.name);
        let combo = ComboBox::from_id_salt("profile").width(ui.available_width());
        let response = combo.selected_text(name).show_ui(ui, |ui| {
            for (index, listed) in self.model.profiles().iter().enumerate() {
                let is_chosen = listed.name == name;
                if ui.selectable_label(is_chosen, &listed.name).clicked() {
                    chosen = Some(index);
                    ui.close();
                }
            }
        });
        response.response.labelled_by(label);
        if let Some(index) = chosen {
            self.model.choose(index);
            self.focus = Some(Focus::Knock);
        }
    }

    fn show_services(&mut self, ui: &mut Ui, words: &Words) {
        let services = match self.model.ready() {
            Some(ready) => ready.services.clone(),
            None => return,
        };
        let label = ui.label(words.service).id;
        let mut chosen = None;
        // A list closes by itself when the mouse chooses, but not when the keyboard does.
        let service = self.model.service();
        let name = service.as_ref().map_or("", |service| service.as_str());
        let combo = ComboBox::from_id_salt("service").width(ui.available_width());
        let response = combo.selected_text(name).show_ui(ui, |ui| {
            for each in &services {
                if ui.selectable_label(service == Some(*each), each.as_str()).clicked() {
                    chosen = Some(*each);
                    ui.close();
                }
            }
        });
        response.response.labelled_by(label);
        if let Some(service) = chosen {
            self.model.choose_service(service);
            self.focus = Some(Focus::Knock);
        }
        ui.add_space(GAP);
        let knock = wide_button(ui, self.model.can_knock(), words.knock);
        if self.model.can_knock() {
            self.gets_focus(Focus::Knock, &knock);
        }
        let is_free = ui.memory(|memory| memory.focused().is_none());
        let is_enter = is_free && ui.input(|input| input.key_pressed(Key::Enter));
        if knock.clicked() || (is_enter && self.model.can_knock()) {
            self.complaint = None;
            self.model.knock();
        }
        if let Some(left) = self.model.ends_soon() {
            let time = text::time(Duration::from_secs(left));
            ui.label(fill(words.ends_soon, &[("time", &time)]));
        }
        if let (Shown::Nothing, None, Some(service)) =
            (&self.model.shown, &self.model.busy, service)
        {
            ui.add_space(GAP);
            ui.label(fill(words.idle, &[("service", service.as_str())]));
        }
    }

    fn show_pending(&mut self, ui: &mut Ui, words: &Words) {
        ui.add_space(GAP);
        let response = wide_button(ui, self.model.busy.is_none(), words.ask_again);
        if self.model.busy.is_none() {
            self.gets_focus(Focus::Knock, &response);
        }
        if response.clicked() {
            self.model.ask_again();
        }
        if let Shown::Nothing = self.model.shown {
            ui.label(words.pending);
        }
    }

    fn show_busy(&mut self, ui: &mut Ui, words: &Words) {
        let Some(busy) = &self.model.busy else { return };
        let mut line = match busy {
            Busy::Knocking(gateway) => fill(words.knocking, &[("gateway", gateway)]),
            Busy::Closing => words.closing.to_owned(),
            Busy::Joining => words.joining.to_owned(),
        };
        match &self.model.note {
            Some(Note::Touch(key)) => line = fill(words.touch, &[("key", key)]),
            Some(Note::Agent) => words.agent.clone_into(&mut line),
            None => {}
        }
        ui.add_space(GAP);
        ui.horizontal(|ui| {
            ui.spinner();
            announced(&ui.label(line));
        });
    }

    /// What came of the last order, and what can be done with it.
    fn show_result(&mut self, ui: &mut Ui, words: &Words, now: Instant) {
        let was_open = self.is_open;
        self.is_open =
            matches!(&self.model.shown, Shown::Opened(opened) if opened.left(now).is_some());
        if was_open && !self.is_open {
            // Its buttons are gone.
            self.focus = Some(Focus::Knock);
            ui.ctx().request_repaint();
        }
        let Some(text) = text::of(words, &self.model.shown, now) else { return };
        ui.add_space(GAP);
        let mut is_closing = false;
        let mut is_connecting = false;
        let mut is_copying = None;
        let shown = std::mem::take(&mut self.model.shown);
        panel(ui, &text, |ui| match &shown {
            Shown::Opened(opened) => {
                let Some(left) = opened.left(now) else { return };
                bar(ui, words, left, opened.total);
                ui.ctx().request_repaint_after(TICK);
                ui.add_space(4.0);
                is_connecting = self.show_connect(ui, words, opened);
                if ui.add_enabled(self.model.busy.is_none(), Button::new(words.end_grant)).clicked()
                {
                    is_closing = true;
                }
            }
            Shown::Pending(approval) => is_copying = self.show_approval(ui, words, approval),
            _ => {}
        });
        if is_connecting && let Shown::Opened(opened) = &shown {
            self.connect(words, opened);
        }
        self.model.shown = shown;
        if is_closing {
            self.model.close();
        }
        if let Some(text) = is_copying {
            ui.ctx().copy_text(text);
            self.is_copied = true;
        }
        if let Some(complaint) = &self.complaint {
            announced(&ui.colored_label(ui.visuals().error_fg_color, complaint));
        }
    }

    /// The words for an admin. Returns them if they are to be copied.
    fn show_approval(&mut self, ui: &mut Ui, words: &Words, approval: &str) -> Option<String> {
        ui.label(RichText::new(approval).monospace().color(Color32::WHITE));
        let copy = ui.button(if self.is_copied { words.copied } else { words.copy });
        self.gets_focus(Focus::Copy, &copy);
        if copy.clicked() { Some(approval.to_owned()) } else { None }
    }

    /// True if the person wants to connect.
    fn show_connect(&mut self, ui: &mut Ui, words: &Words, opened: &Opened) -> bool {
        let Some((kind, _)) = opened.program() else {
            if let Some(place) = &opened.place {
                ui.label(white(&fill(words.place, &[("place", &place.text())])));
            }
            return false;
        };
        let mut is_wanted = false;
        if kind == Kind::Ssh || HERE == connect::System::Linux {
            if self.user_of != opened.target.profile {
                self.user_of.clone_from(&opened.target.profile);
                self.user = self.settings.user(&self.user_of).to_owned();
            }
            let label = ui.label(white(words.user)).id;
            let field = TextEdit::singleline(&mut self.user).desired_width(f32::INFINITY);
            let field = ui.add(field).labelled_by(label);
            is_wanted = field.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter));
        }
        let button = wide_button(ui, true, words.connect);
        self.gets_focus(Focus::Connect, &button);
        is_wanted || button.clicked()
    }

    fn connect(&mut self, words: &Words, opened: &Opened) {
        self.complaint = None;
        let Some((kind, place)) = opened.program() else { return };
        if !connect::is_user(&self.user) {
            self.complaint = Some(words.user_wrong.to_owned());
            return;
        }
        // What cannot be saved can still be used.
        let _ = self.settings.set_user(&opened.target.profile, &self.user);
        let place = connect::Place { user: self.user.clone(), ..place.clone() };
        let commands = connect::commands(HERE, kind, &place, words.ssh_ended);
        self.complaint = match connect::start(&commands) {
            Ok(()) => None,
            Err(NotStarted::NoProgram(programs)) => Some(fill(
                words.no_program,
                &[("programs", programs.join(", ").as_str()), ("place", &place.text())],
            )),
            Err(NotStarted::Failed { program, error }) => Some(fill(
                words.program_failed,
                &[("program", program.as_str()), ("error", &error.to_string())],
            )),
        };
    }

    /// Invitation and language.
    fn show_foot(&mut self, ui: &mut Ui, words: &Words) {
        ui.separator();
        ui.horizontal(|ui| {
            let can_invite = self.model.form.is_none()
                && self.model.question.is_none()
                && self.model.busy.is_none();
            if ui.add_enabled(can_invite, Button::new(words.invite)).clicked() {
                self.model.open_form();
                self.focus = Some(Focus::Line);
            }
            let label = ui.label(words.language).id;
            let before = self.language;
            let combo = ComboBox::from_id_salt("language").selected_text(before.name());
            let response = combo.show_ui(ui, |ui| {
                for language in Language::ALL {
                    let is_before = language == before;
                    if ui.selectable_label(is_before, language.name()).clicked() {
                        self.language = language;
                        ui.close();
                    }
                }
            });
            response.response.labelled_by(label);
            if before != self.language
                && let Err(fault) = self.settings.set_language(self.language)
            {
                self.complaint = Some(text::fault_text(words, &fault));
            }
        });
    }
}

/// A result, in the colour of its tone. `more` comes below its lines.
fn panel(ui: &mut Ui, text: &Text, more: impl FnOnce(&mut Ui)) {
    let (fill, sign) = look(text.tone);
    let frame = Frame::new().fill(fill).inner_margin(Margin::same(12));
    frame.corner_radius(CornerRadius::same(6)).show(ui, |ui| {
        ui.set_width(ui.available_width());
        let headline = format!("{sign} {}", text.headline);
        let headline = RichText::new(headline).color(Color32::WHITE).strong().size(20.0);
        announced(&ui.label(headline));
        for line in &text.lines {
            announced(&ui.label(white(line)));
        }
        more(ui);
    });
}

/// Colour and sign of a tone. White text on each has a contrast of at least 4.5 to 1.
pub fn look(tone: Tone) -> (Color32, &'static str) {
    match tone {
        Tone::Good => (Color32::from_rgb(22, 110, 50), "✔"),
        Tone::Bad => (Color32::from_rgb(160, 30, 30), "✖"),
        Tone::Unknown => (Color32::from_rgb(135, 85, 0), "?"),
        Tone::Neutral => (Color32::from_rgb(75, 85, 99), "•"),
    }
}

fn white(text: &str) -> RichText {
    RichText::new(text).color(Color32::WHITE)
}

/// The time that is left, as a bar that runs down.
fn bar(ui: &mut Ui, words: &Words, left: Duration, total: Duration) {
    let time = text::time(left);
    let part = left.as_secs_f32() / total.as_secs_f32().max(1.0);
    let text = white(&fill(words.left, &[("time", &time)]));
    ui.scope(|ui| {
        // The text is on both parts of the bar.
        ui.visuals_mut().extreme_bg_color = Color32::from_rgb(40, 125, 68);
        ui.add(ProgressBar::new(part).fill(Color32::from_rgb(12, 60, 28)).text(text));
    });
}

/// The button for what comes next. Enter presses it: it has the keyboard.
fn wide_button(ui: &mut Ui, is_enabled: bool, text: &str) -> Response {
    let size = egui::vec2(ui.available_width(), BUTTON_HEIGHT);
    let (text, fill) = match is_enabled {
        true => (white(text), PRIMARY),
        false => (RichText::new(text), ui.visuals().widgets.inactive.bg_fill),
    };
    let button = Button::new(text.strong()).fill(fill);
    ui.add_enabled_ui(is_enabled, |ui| ui.add_sized(size, button)).inner
}

fn secret_field(ui: &mut Ui, text: &mut Zeroizing<String>) -> Response {
    ui.add(TextEdit::singleline(&mut **text).password(true).desired_width(f32::INFINITY))
}

/// Has a screen reader say this text when it comes.
fn announced(label: &Response) {
    label.ctx.accesskit_node_builder(label.id, |node| {
        node.set_live(egui::accesskit::Live::Polite);
    });
}

#[cfg(test)]
mod tests;
