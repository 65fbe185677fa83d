//! What an admin is told who ends grants.

use std::collections::BTreeSet;

use super::*;
use crate::app::admin::tests::RunningGateway;
use crate::core::types::ServiceName;

fn alice() -> Close {
    Close {
        grant: None,
        client: Some("alice".to_owned()),
        service: ServiceName::new("ssh"),
        address: None,
        cut: false,
    }
}

fn done() -> CloseDone {
    CloseDone { ended: 2, is_shut: true, is_cut: true, is_stored: true, ..CloseDone::default() }
}

fn ssh() -> BTreeSet<String> {
    BTreeSet::from(["ssh".to_owned()])
}

#[test]
fn what_ended_what_goes_on_and_the_command_that_ends_it_too() {
    assert_eq!(text(&alice(), &CloseDone { ended: 1, ..done() }), "ended 1 grant\n");
    assert_eq!(
        text(&alice(), &CloseDone { go_on: ssh(), ..done() }),
        "ended 2 grants\n\
         connections to ssh that came in under them go on; to end them too:\n  \
         toctocd close --client alice --service ssh --cut\n"
    );
    assert_eq!(
        text(&alice(), &CloseDone { ended: 0, over: 1, cut: ssh(), ..done() }),
        "no grant was open\nconnections to ssh that came in under them are cut\n"
    );
}

#[test]
fn the_answer_of_the_gateway_decides_about_text_json_and_exit_code() {
    for (answer, part, code) in [
        (done(), "ended 2 grants\n", DONE),
        (CloseDone { is_cut: false, cut: ssh(), ..done() }, "COULD NOT BE CUT yet", FAILED),
        (CloseDone { is_shut: false, ..done() }, "THE FIREWALL REFUSED A CHANGE", FAILED),
        (CloseDone { is_stored: false, ..done() }, "THE STATE CANNOT BE WRITTEN", FAILED),
    ] {
        let gateway = RunningGateway::ok(serde_json::to_value(&answer).unwrap());
        let output = close(&gateway.reach(), &alice()).unwrap();
        assert!(output.out.contains(part), "{part}: {}", *output.out);
        assert_eq!(output.code, code, "{part}");
        assert_eq!(output.value.unwrap()["ended"], 2);
        let asked = ControlRequest::Close {
            grant: None,
            client: Some("alice".to_owned()),
            service: Some("ssh".to_owned()),
            address: None,
            cut: false,
        };
        assert_eq!(gateway.requests(), [asked]);
    }
}

#[test]
fn nothing_that_fits_is_a_fault_that_names_what_was_meant() {
    let gateway = RunningGateway::ok(serde_json::to_value(CloseDone::default()).unwrap());
    let mut reach = gateway.reach();
    let fault = close(&reach, &alice()).err().unwrap();
    assert_eq!(fault.what, "nothing is open for: --client alice --service ssh");
    assert_eq!(fault.kind, FaultKind::Name);
    assert!(fault.remedy.contains("`toctocd grants`"), "{fault}");
    let web = crate::core::service::ServicePorts::Listed(Vec::new());
    let web = crate::config::defaults::service(ServiceName::new("sshd").unwrap(), web);
    reach.settings.services = vec![web];
    let fault = close(&reach, &alice()).err().unwrap();
    assert_eq!(fault.remedy, "did you mean `sshd`?");
}
