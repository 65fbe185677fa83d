//! `toctocd invite` and `toctocd client approve`: who joins by a knock, without a profile being
//! carried by hand. See `core::joining` for what becomes of an invitation.

use std::io::IsTerminal;
use std::path::Path;

use terminal_size::{Height, Width, terminal_size};
use zeroize::Zeroizing;

use super::clients::{check_services, follow_up, public_key, refuse_without_address, write_then};
use super::list::moment;
use super::qr_code::qr_code;
use crate::app::args::toctocd::{Approve, Invite};
use crate::app::joined::{self, ClientFiles};
use crate::app::load;
use crate::app::output::CommandOutput;
use crate::core::diagnostic::printable;
use crate::core::joining::{self, FIRST, Invited, JoinRule, JoinTerms, OpenInvitation, Standing};
use crate::core::public_key::PublicKey;
use crate::core::types::{ClientId, Fault, FaultKind, Fingerprint, SECOND};
use crate::edge::{clock, entropy, terminal};
use crate::keys::authorized;
use crate::keys::invitation::{ADDRESSES, Invitation, SERVICES, is_gateway_name};
use crate::keys::public::{parse_fingerprint, show_fingerprint};

/// Who may join: anybody who asks first, or one key.
struct Wanted {
    rule: JoinRule,
    /// The key itself, if not only its fingerprint is known.
    key: Option<PublicKey>,
}

/// Invites somebody: notes it in the file `joined`, and prints the line, or writes it to the file
/// that `--out` names. Error: nothing was changed: an unknown service, a name or key that is taken,
/// no address.
pub fn invite(config: &Path, args: &Invite) -> Result<CommandOutput, Fault> {
    let settings = load::settings(config)?;
    let keys = load::keys(&settings)?;
    check_services(&settings, &args.services)?;
    refuse_without_address(config, &settings)?;
    if args.services.len() > SERVICES {
        let what = format!("an invitation has room for {SERVICES} services");
        return Err(Fault::new(what, "invite with fewer; `client add` has no such limit"));
    }
    let wanted = wanted(args)?;
    let id = ClientId(entropy::bytes()?);
    let now = clock::now().wall.0 / SECOND;
    let until = joining::end(now, FIRST, args.limits.expires);
    let line = Invitation {
        until,
        gateway: keys.gateway,
        realm: keys.realm.duplicate(),
        gateway_public: keys.public(),
        id,
        root: keys.master.client_root(id),
        first_period: keys.first_period,
        port: settings.knock.port,
        addresses: settings.gateway.addresses.iter().take(ADDRESSES).cloned().collect(),
        services: args.services.clone(),
        gateway_name: args.gateway_name.clone().unwrap_or_else(gateway_name),
        client_name: args.name.clone(),
    }
    .print();
    let row = Invited {
        invitation: Some(OpenInvitation { id, until }),
        terms: JoinTerms {
            name: args.name.clone(),
            services: args.services.as_slice().into(),
            expires: args.limits.expires,
            limits: args.limits.limits(),
        },
        standing: Standing::Open(wanted.rule),
    };
    let text = Zeroizing::new(format!("{}\n", line.as_str()));
    let out = args.out.as_deref();
    let written: Vec<(&Path, &str)> = out.iter().map(|out| (*out, text.as_str())).collect();
    let files = ClientFiles::of(&settings);
    write_then(&written, || {
        joined::change(&files.joined, now, |rows| {
            let clients = load::clients_text(&files.clients)?;
            let key = wanted.key.as_ref();
            let taken = authorized::stands_in(&clients, key, Some(&args.name))
                || rows.iter().any(|row| row.terms.name == args.name)
                || key.is_some_and(|key| rows.iter().any(|row| row.key() == Some(key)));
            if taken {
                let what = format!("`{}`, or this key, is enrolled or invited already", args.name);
                let remedy = format!(
                    "`toctocd client list` shows it; choose another name, or first: toctocd \
                     client revoke {}",
                    args.name
                );
                return Err(Fault::new(what, remedy).of(FaultKind::Name));
            }
            rows.push(row);
            Ok(())
        })
    })?;
    let until = moment(until).unwrap_or_default();
    let mut output = follow_up(&settings, &format!("`{}` is invited until {until}", args.name));
    output.err += &next_steps(args, wanted.rule);
    if args.out.is_none() {
        output.out = on_terminal(&line);
    }
    Ok(output)
}

/// What the admin does now.
fn next_steps(args: &Invite, rule: JoinRule) -> String {
    let name = &args.name;
    let line = match &args.out {
        Some(out) => format!("the line in {}", out.display()),
        None => "this line".to_owned(),
    };
    let who = match rule {
        JoinRule::Approval => format!(
            "the first key that joins with it waits for you: toctocd client approve {name}\n"
        ),
        JoinRule::Auto => {
            "whoever reads the line first, joins: show it to nobody else\n".to_owned()
        }
        JoinRule::Only(only) => format!("only the key {} can join\n", show_fingerprint(&only)),
    };
    format!("send {line} over a private channel; there: toctoc join, and paste it\n{who}")
}

fn wanted(args: &Invite) -> Result<Wanted, Fault> {
    let Some(text) = &args.key else {
        let rule = if args.auto { JoinRule::Auto } else { JoinRule::Approval };
        return Ok(Wanted { rule, key: None });
    };
    if let Some(fingerprint) = parse_fingerprint(text) {
        return Ok(Wanted { rule: JoinRule::Only(fingerprint), key: None });
    }
    let key = public_key(text)?;
    Ok(Wanted { rule: JoinRule::Only(key.fingerprint()), key: Some(key) })
}

/// The first label of this machine's name, if a gateway can be called so.
fn gateway_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy().to_ascii_lowercase();
    let label = name.split('.').next().unwrap_or_default();
    if is_gateway_name(label) { label.to_owned() } else { "gateway".to_owned() }
}

/// The line, and its QR code if standard output is a terminal that has room for it.
fn on_terminal(line: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(format!("{line}\n"));
    if std::io::stdout().is_terminal()
        && let Some((Width(columns), Height(rows))) = terminal_size()
        && let Some(code) = capitals(line)
    {
        let height = code.lines().count() + 2;
        let width = code.lines().map(|row| row.chars().count()).max().unwrap_or(0);
        if width <= usize::from(columns) && height <= usize::from(rows) {
            text = Zeroizing::new(format!("{}\n{line}\n", code.as_str()));
        }
    }
    text
}

/// The line as a QR code. In capitals it takes the alphanumeric mode, and a third less room.
fn capitals(line: &str) -> Option<Zeroizing<String>> {
    qr_code(&Zeroizing::new(line.to_ascii_uppercase()))
}

/// Lets the key in that waits under this name. `--json` and scripts name its fingerprint; a person
/// may look at it and say yes. Error: nothing was changed: nobody waits under that name, or another
/// key does.
pub fn approve(config: &Path, args: &Approve) -> Result<CommandOutput, Fault> {
    let settings = load::settings(config)?;
    let keys = load::keys(&settings)?;
    let files = ClientFiles::of(&settings);
    let seen = match args.fingerprint {
        Some(fingerprint) => fingerprint,
        None => ask(&joined::read(&files.joined)?, &args.name)?,
    };
    let now = clock::now().wall.0 / SECOND;
    joined::change(&files.joined, now, |rows| {
        let key = pending(rows, &args.name)?.clone();
        // What is approved is what was seen.
        if key.fingerprint() != seen {
            let what = format!(
                "the key that waits under `{}` is {}, and not {}: nobody was let in",
                args.name,
                show_fingerprint(&key.fingerprint()),
                show_fingerprint(&seen)
            );
            let remedy = format!(
                "if it is not theirs, somebody else has read the line: toctocd client revoke {}",
                args.name
            );
            return Err(Fault::new(what, remedy));
        }
        for row in rows.iter_mut().filter(|row| row.terms.name == args.name) {
            if let Some(id) = row.id() {
                row.join(keys.master.joined_id(id, &key.ed25519), key.clone());
                row.extend(now);
            }
        }
        Ok(())
    })?;
    let done = format!("`{}` is enrolled with {}", args.name, show_fingerprint(&seen));
    Ok(follow_up(&settings, &done))
}

/// The key that waits under this name.
fn pending<'a>(rows: &'a [Invited], name: &str) -> Result<&'a PublicKey, Fault> {
    let row = rows.iter().find(|row| row.terms.name == name);
    let (what, remedy) = match row.map(|row| &row.standing) {
        Some(Standing::Pending(key)) => return Ok(key),
        Some(Standing::Open(_)) => (
            format!("no key has asked to join as `{name}` yet"),
            "the invited person runs `toctoc join`, and tells you the fingerprint that it shows",
        ),
        Some(Standing::Joined(..)) => {
            (format!("`{name}` has joined already"), "`toctocd client list` shows the key")
        }
        None => (
            format!("nobody is invited as `{}`", printable(name)),
            "`toctocd client list` shows who is; after its time an invitation is gone",
        ),
    };
    Err(Fault::new(what, remedy).of(FaultKind::Name))
}

fn ask(rows: &[Invited], name: &str) -> Result<Fingerprint, Fault> {
    let fingerprint = pending(rows, name)?.fingerprint();
    let shown = show_fingerprint(&fingerprint);
    let question = format!("{shown} asks to join as {name}. Did {name} tell you this fingerprint?");
    if terminal::confirm(&question) {
        return Ok(fingerprint);
    }
    let what = format!("{shown} waits under `{name}`; nobody was let in");
    let remedy = format!("once you know that it is theirs: toctocd client approve {name} {shown}");
    Err(Fault::new(what, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::provision::qr_code;

    #[test]
    fn the_qr_code_of_an_ordinary_line_fits_a_terminal_of_80_columns_and_reads_as_the_line() {
        let line = format!("toctoc:{}", "A".repeat(322));
        let code = capitals(&line).unwrap();
        assert_eq!(qr_code::read(&code).to_ascii_lowercase(), line.to_ascii_lowercase());
        let rows: Vec<usize> = code.lines().map(|row| row.chars().count()).collect();
        assert!(rows.iter().all(|row| *row == 61) && rows.len() == 31, "{rows:?}");
    }
}
