//! `toctoc-window`: choose a profile and a service, knock, and connect.
#![windows_subsystem = "windows"]

mod complaint;
mod connect;
mod keys;
mod model;
mod settings;
mod text;
mod view;
mod words;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use eframe::egui::{
    self, Color32, Event, FontId, IconData, TextStyle, ViewportBuilder, ViewportCommand,
};
use toctoc::app::paths::UserPaths;

use model::Model;
use settings::Settings;
use view::View;
use words::{Language, fill};
use worker::Worker;

const USAGE: &str = "\
toctoc-window: choose a profile and a service, knock, and connect
usage: toctoc-window [--version | --help]
It uses the keys and profiles of toctoc: see `toctoc --help`.";

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("--version") => {
            println!("toctoc-window {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some("--help") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(_) => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    let viewport = ViewportBuilder::default()
        .with_title("toctoc")
        .with_app_id("toctoc-window")
        .with_icon(Arc::new(icon()))
        .with_inner_size([480.0, 560.0])
        .with_min_inner_size([360.0, 320.0]);
    let options = eframe::NativeOptions { viewport, ..eframe::NativeOptions::default() };
    let made = eframe::run_native(
        "toctoc-window",
        options,
        Box::new(|context| Ok(Box::new(Window::new(&context.egui_ctx)))),
    );
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let locale = sys_locale::get_locale().unwrap_or_default();
            let words = Language::of_locale(&locale).words();
            complaint::say(&fill(words.no_window, &[("error", &error.to_string())]));
            ExitCode::FAILURE
        }
    }
}

struct Window {
    view: View,
    worker: Worker,
    title: String,
    /// What was typed faster than pictures are drawn.
    typed: Vec<Event>,
}

impl Window {
    fn new(context: &egui::Context) -> Window {
        context.all_styles_mut(|style| {
            for (name, size) in [(TextStyle::Heading, 22.0), (TextStyle::Body, 16.0)] {
                style.text_styles.insert(name, FontId::proportional(size));
            }
            style.text_styles.insert(TextStyle::Button, FontId::proportional(16.0));
            style.spacing.interact_size.y = 28.0;
            // egui's own grey is hard to read.
            let text =
                if style.visuals.dark_mode { Color32::from_gray(215) } else { Color32::BLACK };
            style.visuals.widgets.noninteractive.fg_stroke.color = text;
            style.visuals.widgets.inactive.fg_stroke.color = text;
        });
        let paths = UserPaths::from_env();
        let settings = Settings::load(&paths);
        let locale = sys_locale::get_locale().unwrap_or_default();
        let wake = {
            let context = context.clone();
            move || context.request_repaint()
        };
        let worker = Worker::start(paths, wake);
        let view = View::new(Model::new(), settings, &locale);
        Window { view, worker, title: String::new(), typed: Vec::new() }
    }
}

impl eframe::App for Window {
    fn raw_input_hook(&mut self, context: &egui::Context, input: &mut egui::RawInput) {
        keys::one_step(&mut input.events, &mut self.typed);
        if !self.typed.is_empty() {
            context.request_repaint();
        }
    }

    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        let now = Instant::now();
        while let Ok(news) = self.worker.news.try_recv() {
            self.view.model.take(now, news);
            self.view.after_news(now);
        }
        self.view.show(ui, now);
        for order in self.view.model.take_orders() {
            self.worker.order(order);
        }
        if let Some(answer) = self.view.answer.take() {
            self.worker.answer(answer);
        }
        let title = self.view.title(now);
        // The whole window has this name for a screen reader, too.
        ui.ctx().accesskit_node_builder(egui::accesskit_root_id(), |node| {
            node.set_label(title.clone());
        });
        if title != self.title {
            ui.ctx().send_viewport_cmd(ViewportCommand::Title(title.clone()));
            self.title = title;
        }
    }
}

/// A door that stands ajar, drawn on a square.
fn icon() -> IconData {
    const SIDE: u32 = 64;
    let mut rgba = Vec::new();
    for y in 0..SIDE {
        for x in 0..SIDE {
            let is_frame = (12..52).contains(&x) && (4..60).contains(&y);
            let is_inside = (17..47).contains(&x) && y >= 9 && is_frame;
            let is_leaf = (17..37).contains(&x) && y >= 9 + (x - 17.min(x)) / 3 && is_frame;
            let is_knob = (31..35).contains(&x) && (33..37).contains(&y);
            rgba.extend(match (is_knob, is_leaf, is_inside, is_frame) {
                (true, ..) => [250, 220, 120, 255],
                (_, true, ..) => [22, 110, 50, 255],
                (_, _, true, _) => [235, 245, 235, 255],
                (_, _, _, true) => [40, 50, 60, 255],
                _ => [0, 0, 0, 0],
            });
        }
    }
    IconData { rgba, width: SIDE, height: SIDE }
}
