//! The program `toctocd`: which of its commands, or of its two processes, is to run.
//! What they do is left to the other files of this floor.

use std::process::ExitCode;

use clap::Parser;

use super::args::toctocd::{ClientCommand, ToctocdArgs, ToctocdCommand};
use super::output::{CommandOutput, DONE, FAILED, WRONG, finish};
use super::{admin, compat, gatekeeper, guard, listener, load, provision};
use crate::core::types::Fault;
use crate::edge::control::ControlRequest;

/// Runs what the command line says; answers the exit code.
pub fn main() -> ExitCode {
    // The listener is this program once more; it is told so by an argument that no help mentions.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == gatekeeper::ROLE) {
        return listener::main();
    }
    if std::env::args_os().nth(1).is_some_and(|argument| argument == compat::runner::ROLE) {
        return compat::runner::main();
    }
    if compat::is_called(std::env::args_os().next().as_deref(), "knockd") {
        return compat::daemon::main();
    }
    ExitCode::from(run(&ToctocdArgs::parse()))
}

fn run(args: &ToctocdArgs) -> u8 {
    match &args.command {
        // Whatever is wrong before it serves leaves everything as it was.
        ToctocdCommand::Run => match gatekeeper::Gatekeeper::start(&args.config) {
            Ok(gatekeeper) => finish(gatekeeper.serve().map(|()| DONE), FAILED),
            Err(fault) => finish(Err(fault), WRONG),
        },
        ToctocdCommand::Init(init) => {
            finish(provision::init(&args.config, init).map(|output| output.print()), WRONG)
        }
        ToctocdCommand::Check { print } => {
            finish(provision::check(&args.config, *print).map(|output| output.print()), WRONG)
        }
        ToctocdCommand::Convert { file } => {
            finish(provision::convert(&args.config, file).map(|output| output.print()), WRONG)
        }
        ToctocdCommand::Client(ClientCommand::Add(add)) => {
            finish(provision::add(&args.config, add).map(|output| output.print()), WRONG)
        }
        ToctocdCommand::Client(ClientCommand::List { json }) => {
            finish(provision::list(&args.config, *json).map(|output| output.print()), WRONG)
        }
        ToctocdCommand::Client(ClientCommand::Forgive { name, profile }) => finish(
            provision::forgive(&args.config, name, profile).map(|output| output.print()),
            WRONG,
        ),
        ToctocdCommand::Client(ClientCommand::Revoke { name }) => {
            finish(provision::revoke(&args.config, name).map(|output| output.print()), WRONG)
        }
        ToctocdCommand::Guard(command) => guard::run(&args.config, command),
        ToctocdCommand::Status { json } => ask(args, |settings| admin::status(settings, *json)),
        ToctocdCommand::Grants { json } => ask(args, |settings| admin::grants(settings, *json)),
        ToctocdCommand::Reload => {
            ask(args, |settings| admin::command(settings, &ControlRequest::Reload))
        }
        ToctocdCommand::Reinitialise => {
            ask(args, |settings| admin::command(settings, &ControlRequest::Reinitialise))
        }
    }
}

fn ask(
    args: &ToctocdArgs,
    question: impl FnOnce(&crate::config::Settings) -> Result<CommandOutput, Fault>,
) -> u8 {
    match load::native(&args.config) {
        Ok(settings) => finish(question(&settings).map(|output| output.print()), FAILED),
        Err(fault) => finish(Err(fault), WRONG),
    }
}
