//! The forms of the window: for an invitation, and for a passphrase.

use eframe::egui::{Key, Ui};

use super::{Focus, GAP, View, secret_field, wide_button};
use crate::model::Shown;
use crate::words::{Words, fill};

impl View {
    /// The question for a passphrase.
    pub(super) fn show_question(&mut self, ui: &mut Ui, words: &Words) {
        let Some(question) = &mut self.model.question else { return };
        if question.is_again {
            ui.heading(words.wrong_passphrase);
        }
        let label = ui.label(fill(words.passphrase, &[("place", &question.place)])).id;
        let field = secret_field(ui, &mut question.typed).labelled_by(label);
        let is_entered = field.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter));
        let mut is_ok = is_entered;
        let mut is_cancelled = ui.input(|input| input.key_pressed(Key::Escape));
        ui.horizontal(|ui| {
            is_ok |= ui.button(words.ok).clicked();
            is_cancelled |= ui.button(words.cancel).clicked();
        });
        if is_ok {
            self.answer = Some(Some(std::mem::take(&mut question.typed)));
        } else if is_cancelled {
            self.answer = Some(None);
        }
        if self.answer.is_some() {
            self.model.question = None;
        }
        self.gets_focus(Focus::Passphrase, &field);
    }

    /// The form for an invitation.
    pub(super) fn show_form(&mut self, ui: &mut Ui, words: &Words) {
        ui.heading(words.join_title);
        ui.label(words.join_text);
        let has_profiles = !self.model.profiles().is_empty();
        let is_free = self.model.busy.is_none();
        let Some(form) = &mut self.model.form else { return };
        let label = ui.label(words.line).id;
        let line = secret_field(ui, &mut form.line).labelled_by(label);
        let mut is_entered = line.lost_focus();
        if form.has_key == Some(false) {
            ui.add_space(GAP);
            ui.label(words.key_new);
            let label = ui.label(words.new_passphrase).id;
            is_entered |= secret_field(ui, &mut form.passphrase).labelled_by(label).lost_focus();
            let label = ui.label(words.repeat_passphrase).id;
            is_entered |= secret_field(ui, &mut form.repeated).labelled_by(label).lost_focus();
            if !form.is_same() && !form.repeated.is_empty() {
                ui.label(words.passphrases_differ);
            }
        }
        is_entered &= ui.input(|input| input.key_pressed(Key::Enter));
        ui.add_space(GAP);
        let can_join = form.is_complete() && is_free;
        if wide_button(ui, can_join, words.join).clicked() || (is_entered && can_join) {
            self.model.join();
        }
        let is_escaped = ui.input(|input| input.key_pressed(Key::Escape));
        if has_profiles && is_free && (ui.button(words.cancel).clicked() || is_escaped) {
            self.model.form = None;
            self.model.shown = Shown::Nothing;
            self.focus = Some(Focus::Knock);
        }
        self.gets_focus(Focus::Line, &line);
    }
}
