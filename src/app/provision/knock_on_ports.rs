//! A classic door for the phone app Knock on Ports: a file in its format, version 1, and a QR code.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::clients::fallback;
use super::qr_code::qr_code;
use crate::app::args::toctocd::Export;
use crate::app::load;
use crate::app::output::CommandOutput;
use crate::config::Settings;
use crate::core::bytes::saturated_i64;
use crate::core::door::{Door, Step};
use crate::core::types::Fault;

/// Milliseconds between two steps: the app's own default.
const DELAY: i64 = 500;
/// The largest payload of the app's echo requests, with the longest IP header.
const MOST_PAYLOAD: u16 = 65_467;

/// Prints the door called `args.door` as a file for the app, or as a QR code of it.
/// Error: the app cannot knock at this door, or the gateway has no address for it.
pub fn export(config: &Path, args: &Export) -> Result<CommandOutput, Fault> {
    let settings = load::settings(config)?;
    let sequence = fallback(&settings, &args.door)?.sequence;
    let Some(door) = settings.doors.iter().find(|door| door.name == args.door) else {
        return Err(Fault::new(format!("this gateway has no door `{}`", args.door), ""));
    };
    let entry = entry(door, &sequence, &host(&settings, door, args.host.as_deref())?)?;
    let file = json!({ "version": 1, "sequences": [entry] });
    let mut output = match args.qr {
        true => CommandOutput::data(picture(&file.to_string())?),
        false => CommandOutput::data(format!("{file:#}\n")),
    };
    output.err = "whoever sees this sequence, here or on its way, can repeat it\n".to_owned();
    Ok(output)
}

/// The address to knock at: the one that counts for the door, the one that is given, or the first
/// of the gateway.
fn host(settings: &Settings, door: &Door, given: Option<&str>) -> Result<String, Fault> {
    match (&door.target, given, settings.gateway.addresses.first()) {
        (Some(target), Some(given), _) if target != given => {
            let what = format!("door [{}]: only packets to {target} count", door.name);
            Err(Fault::new(what, "leave --host out"))
        }
        (Some(target), _, _) => Ok(target.clone()),
        (None, Some(given), _) => Ok(given.to_owned()),
        (None, None, Some(first)) => Ok(first.clone()),
        (None, None, None) => {
            let what = "[gateway] addresses is empty: where shall the app knock?";
            Err(Fault::new(what, "name a host: --host gate.example.org"))
        }
    }
}

fn entry(door: &Door, sequence: &[Step], host: &str) -> Result<Value, Fault> {
    let refuse = |why: &str, remedy: &str| {
        Err(Fault::new(format!("door [{}] cannot be used from the app: {why}", door.name), remedy))
    };
    let pauses = saturated_i64(sequence.len()) - 1;
    let mut delay = DELAY;
    if pauses > 0 {
        // Half of the time is for the network.
        delay = DELAY.min(door.seq_timeout.saturating_mul(1000) / 2 / pauses);
        if delay <= 0 {
            return refuse("it allows no time between its steps", "give it a longer seq_timeout");
        }
    }
    let mut steps = Vec::new();
    for step in sequence {
        steps.push(match step {
            Step::Echo { size } if *size > MOST_PAYLOAD => {
                return refuse(
                    "a step is a larger echo request than it sends",
                    "use a smaller one",
                );
            }
            Step::Echo { size } => json!({ "type": "icmp", "icmp_size": size, "icmp_count": 1 }),
            Step::Port(port) => json!({ "type": port.proto.name(), "port": port.number }),
        });
    }
    Ok(json!({
        "name": door.name,
        "host": host,
        "delay": delay,
        // Sizes count the payload alone, as ours do.
        "icmp_type": "without_headers",
        "ipv": match host.parse() {
            Ok(IpAddr::V4(_)) => "only_ipv4",
            Ok(IpAddr::V6(_)) => "only_ipv6",
            Err(_) => "prefer_ipv4",
        },
        "steps": steps,
    }))
}

fn picture(text: &str) -> Result<String, Fault> {
    let Some(code) = qr_code(text) else {
        let what = "this door is too long for a QR code";
        return Err(Fault::new(what, "leave --qr out, and move the file to the phone"));
    };
    Ok(format!("{}\n", *code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::provision::qr_code;

    fn door(sequence: &[Step]) -> Door {
        Door { name: "web".into(), sequence: sequence.to_vec(), ..Door::default() }
    }

    fn made(door: &Door, host: &str) -> Result<Value, String> {
        entry(door, &door.sequence, host).map_err(|fault| fault.to_string())
    }

    #[test]
    fn each_step_has_its_type_and_the_delays_leave_half_of_the_time() {
        let steps = [Step::tcp(7001), Step::udp(8001), Step::Echo { size: 64 }];
        let mut door = door(&steps);
        let entry = made(&door, "198.51.100.4").unwrap();
        assert_eq!(entry["ipv"], "only_ipv4");
        assert_eq!(made(&door, "2001:db8::1").unwrap()["ipv"], "only_ipv6");
        assert_eq!(made(&door, "gate.example.org").unwrap()["ipv"], "prefer_ipv4");
        let expected = json!([
            { "type": "tcp", "port": 7001 },
            { "type": "udp", "port": 8001 },
            { "type": "icmp", "icmp_size": 64, "icmp_count": 1 },
        ]);
        assert_eq!((&entry["steps"], &entry["delay"]), (&expected, &json!(500)));
        for (seconds, delay) in [(2, 500), (1, 250)] {
            door.seq_timeout = seconds;
            assert_eq!(made(&door, "h").unwrap()["delay"], delay);
        }
    }

    #[test]
    fn what_the_app_cannot_send_is_refused() {
        let mut slow = door(&[Step::tcp(1), Step::tcp(2)]);
        slow.seq_timeout = 0;
        assert!(made(&slow, "h").unwrap_err().contains("no time between its steps"));
        let echo = |size| made(&door(&[Step::Echo { size }]), "h");
        assert!(echo(65_468).unwrap_err().contains("a larger echo request"));
        assert!(echo(65_467).is_ok());
    }

    #[test]
    fn the_qr_code_reads_as_the_file_and_a_door_too_long_for_one_is_refused() {
        let mut long = door(&[]);
        for port in 7001..7010 {
            long.sequence.push(Step::tcp(port));
        }
        let text = json!({ "version": 1, "sequences": [made(&long, "h").unwrap()] }).to_string();
        assert_eq!(qr_code::read(&picture(&text).unwrap()), text);
        let fault = picture(&"x".repeat(3000)).unwrap_err();
        assert!(fault.to_string().contains("too long for a QR code"), "{fault}");
    }

    #[test]
    fn the_address_that_counts_wins_and_another_one_is_refused() {
        let mut settings = crate::config::defaults::settings();
        let mut door = door(&[Step::tcp(1)]);
        assert!(host(&settings, &door, None).is_err());
        settings.gateway.addresses = vec!["a.example".into(), "b.example".into()];
        assert_eq!(host(&settings, &door, None).unwrap(), "a.example");
        assert_eq!(host(&settings, &door, Some("c.example")).unwrap(), "c.example");
        door.target = Some("b.example".into());
        assert_eq!(host(&settings, &door, None).unwrap(), "b.example");
        assert!(host(&settings, &door, Some("c.example")).is_err());
    }
}
