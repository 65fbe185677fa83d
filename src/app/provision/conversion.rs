//! `toctocd convert`: doors of knockd, or stanzas of fwknop, as sections of our own configuration.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::app::args::toctocd::Convert;
use crate::app::load;
use crate::app::output::CommandOutput;
use crate::config::convert::fwknop::{self, FileReader, Sources};
use crate::config::convert::{self, Converted};
use crate::config::knockd::Strictness;
use crate::config::{Settings, defaults};
use crate::core::types::{Fault, SECOND};
use crate::edge::files::{self, FileCheck};
use crate::edge::{addresses, clock, names};

const KNOCKD: &str = "/etc/knockd.conf";
const ACCESS: &str = "/etc/fwknop/access.conf";
const SERVER: &str = "/etc/fwknop/fwknopd.conf";

/// Converts what `args` names. The configuration `config` need not exist: its services are used.
/// Error: a file cannot be read.
pub fn convert(config: &Path, args: &Convert) -> Result<CommandOutput, Fault> {
    let settings = match config.symlink_metadata() {
        Ok(_) => load::native(config)?,
        Err(_) => defaults::settings(),
    };
    let own: Vec<IpAddr> = addresses::own()?.into_iter().map(|own| own.address).collect();
    let path = match (&args.file, args.fwknop) {
        (Some(path), _) => path.clone(),
        (None, true) => PathBuf::from(ACCESS),
        (None, false) => PathBuf::from(KNOCKD),
    };
    let converted = match args.fwknop {
        true => from_fwknop(&path, args, &settings, &own)?,
        false => {
            let conf = load::knockd_conf(&path, Strictness::SkipLines)?;
            convert::convert(&conf, &settings, &names::port_named, &own)
        }
    };
    Ok(report(config, &path, &converted))
}

fn from_fwknop(
    path: &Path, args: &Convert, settings: &Settings, own: &[IpAddr],
) -> Result<Converted, Fault> {
    let usual = args.file.is_none() && Path::new(SERVER).exists();
    let server = match &args.server {
        Some(path) => Some(path.display().to_string()),
        None if usual => Some(SERVER.to_owned()),
        None => None,
    };
    // What is not UTF-8 is a mistake of its line, not of the file.
    let text = |path: &str| {
        let bytes = files::read_bytes(Path::new(path), FileCheck::Trusted)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    fwknop::convert(
        &Sources {
            access: &path.display().to_string(),
            server: server.as_deref(),
            files: FileReader { text: &text, folder: &folder },
            own,
            now: clock::now().wall.0 / SECOND,
        },
        settings,
    )
}

/// The files of a folder that fwknopd reads, in order.
fn folder(path: &str) -> Result<Vec<String>, Fault> {
    let entries = std::fs::read_dir(path).map_err(|error| {
        Fault::new(
            format!("{path}: {error}"),
            "name a folder that can be read after %include_folder",
        )
    })?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension() == Some("conf".as_ref()) {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    Ok(found)
}

/// The sections for standard output, and what a person must know for standard error.
fn report(config: &Path, path: &Path, converted: &Converted) -> CommandOutput {
    let Converted { toml, invitations, left_out, warnings, notes } = converted;
    let mut output = CommandOutput::data(String::new());
    for (kind, lines) in [("left out", left_out), ("warning", warnings), ("note", notes)] {
        for line in lines {
            output.err += &format!("{kind}: {line}\n");
        }
    }
    let from = path.display();
    let is_empty = toml.is_empty() && invitations.is_empty();
    if is_empty {
        output.err += &format!("{from}: nothing to convert\n");
    } else {
        let mut text = format!("\n# From {from}, by `toctocd convert`.\n");
        for invitation in invitations {
            text += &format!("# {invitation}\n");
        }
        output.out = Zeroizing::new(format!("{text}\n{toml}"));
        let to = config.display();
        output.err += &format!("next: append the sections to {to}, then run `toctocd check`\n");
    }
    if !invitations.is_empty() {
        let what = "then reload, run the commands in its comments, and hand out the lines that they \
                    print";
        output.err += &format!("{what}\n");
    }
    output.value = Some(serde_json::json!({
        "sections": toml,
        "invitations": invitations,
        "left_out": left_out,
        "warnings": warnings,
        "notes": notes,
    }));
    output.code = u8::from(!left_out.is_empty() || !warnings.is_empty() || is_empty);
    output
}
