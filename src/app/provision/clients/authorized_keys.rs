//! `toctocd client add --authorized-keys`: enrols each key of an authorized_keys file that can sign
//! knocks, and lists the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::{Timestamp, tz::TimeZone};
use zeroize::Zeroizing;

use super::{add_line, check_services, enrol, follow_up, profile, refuse_invited};
use crate::app::args::toctocd::ClientAdd;
use crate::app::load;
use crate::app::output::{CommandOutput, count};
use crate::core::service::Client;
use crate::core::types::{ClientId, Fault};
use crate::edge::entropy;
use crate::edge::files::{self, FileCheck};
use crate::keys::authorized;
use crate::keys::authorized::limits::any_zone;
use crate::keys::authorized_keys::{LeftOutLine, UsableKey, name_of, read};
use crate::keys::public::show_fingerprint;

/// A client to be, and its profile.
struct NewClient {
    client: Client,
    file: PathBuf,
    profile: Zeroizing<String>,
}

/// Enrols the usable keys of `list` and writes their profiles into `directory`.
/// Error: nothing was changed: no usable key, an unknown service, a profile that exists.
pub(super) fn add_all(
    config: &Path, args: &ClientAdd, list: &Path, directory: &Path,
) -> Result<CommandOutput, Fault> {
    let settings = load::settings(config)?;
    let keys = load::keys(&settings)?;
    check_services(&settings, &args.services)?;
    let door = args.profile.door.as_deref();
    let text = files::read(list, FileCheck::Trusted)?;
    let mut sorted = read(&text, Timestamp::now(), &TimeZone::system());
    let path = &settings.gateway.clients_file;
    let text = load::clients_text(path)?;
    let enrolled = authorized::parse(&path.display().to_string(), &text, &any_zone)?;
    let mut names: BTreeSet<String> =
        enrolled.iter().map(|client| client.name.to_string()).collect();
    let mut owners: BTreeMap<[u8; 32], String> = BTreeMap::new();
    for client in enrolled {
        owners.insert(client.key.ed25519, client.name.to_string());
    }
    let mut new = Vec::new();
    for usable in sorted.usable {
        if let Some(owner) = owners.get(&usable.key.ed25519) {
            let why = format!("client `{owner}` has this key already");
            sorted.left_out.push(LeftOutLine { line: usable.line, why });
            continue;
        }
        let name = unique_name(&usable, &mut names);
        owners.insert(usable.key.ed25519, name.clone());
        let client = Client {
            id: ClientId(entropy::bytes()?),
            name: name.as_str().into(),
            key: usable.key,
            services: args.services.as_slice().into(),
            expires: [args.limits.expires, usable.expires].into_iter().flatten().min(),
            limits: args.limits.limits(),
            invited_until: None,
        };
        let file = directory.join(format!("{}.toml", client.name));
        let profile = profile(config, &settings, &keys, &client, door)?;
        new.push(NewClient { client, file, profile });
    }
    sorted.left_out.sort_by_key(|left_out| left_out.line);
    let mut left_out = String::new();
    for LeftOutLine { line, why } in &sorted.left_out {
        left_out += &format!("{}:{line}: not enrolled: {why}\n", list.display());
    }
    if new.is_empty() {
        let what = format!("{}: no key to enrol\n{left_out}", list.display());
        let remedy = "only ssh-ed25519 and sk-ssh-ed25519@openssh.com keys can sign a knock";
        return Err(Fault::new(what.trim_end(), remedy));
    }
    files::make_directory(directory, 0o700)?;
    let files: Vec<(&Path, &str)> =
        new.iter().map(|one| (one.file.as_path(), one.profile.as_str())).collect();
    enrol(&settings, &files, |label, text| {
        let mut text = text.to_owned();
        for one in &new {
            refuse_invited(&settings, &one.client)?;
            text = add_line(label, &text, &one.client, door)?;
        }
        Ok(text)
    })?;
    let mut output = follow_up(&settings, &format!("{} enrolled", count(new.len(), "client")));
    output.err = left_out + &output.err;
    output.err +=
        "the profiles hold secrets: send each over a private channel; there: toctoc import FILE\n";
    *output.out = table(&new);
    Ok(output)
}

fn unique_name(usable: &UsableKey, names: &mut BTreeSet<String>) -> String {
    let wanted = name_of(usable);
    let mut name = wanted.clone();
    let mut number = 1;
    while !names.insert(name.clone()) {
        number += 1;
        name = format!("{wanted}-{number}");
    }
    name
}

fn table(new: &[NewClient]) -> String {
    let width = new.iter().map(|one| one.client.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for NewClient { client, file, .. } in new {
        let fingerprint = show_fingerprint(&client.key.fingerprint());
        text += &format!("{:width$}  {fingerprint}  {}\n", client.name, file.display());
    }
    text
}
