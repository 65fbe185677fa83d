//! The result of a sealed command as JSON.

use serde_json::{Value, json};

use super::{ExchangeReport, PARTLY, net, ports, timestamp, until};
use crate::app::client::ask::{ExchangeOutcome, GatewayResult};
use crate::core::exchange::{AddressOrigin, ReceivedReceipt};
use crate::core::knock::{KnockKind, Status};

impl ExchangeReport<'_> {
    /// Everything as one JSON object.
    pub(in crate::app::client) fn json(&self) -> Value {
        let mut answers: Vec<Value> = self.results.iter().map(result_json).collect();
        for answer in &mut answers {
            // Only a probe was answered, and no knock followed.
            if self.request.kind == KnockKind::Open && answer["status"] == "observed" {
                answer["status"] = json!("replaced");
            }
        }
        let service = match self.request.kind {
            KnockKind::Probe => None,
            _ => Some(self.request.service.as_str()),
        };
        let port = match self.request.source_port {
            0 => None,
            port => Some(port),
        };
        let result = match self.code() {
            PARTLY => json!("partly"),
            _ => best_status(&answers),
        };
        json!({
            "profile": self.name, "service": service, "source_port": port,
            "result": result, "answers": answers
        })
    }
}

/// The best status; else the first refusal; else the first result.
fn best_status(answers: &[Value]) -> Value {
    for wanted in ["granted", "closed", "observed"] {
        if answers.iter().any(|answer| answer["status"] == wanted) {
            return Value::from(wanted);
        }
    }
    for answer in answers {
        let words = ["no-answer", "not-sent", "not-tried"];
        if words.iter().all(|word| answer["status"] != *word) {
            return answer["status"].clone();
        }
    }
    match answers.first() {
        Some(answer) => answer["status"].clone(),
        None => Value::Null,
    }
}

fn result_json(result: &GatewayResult) -> Value {
    let mut object = match &result.outcome {
        ExchangeOutcome::Received(received) => receipt_json(received),
        ExchangeOutcome::Silence if result.knocks == 0 => json!({ "status": "not-tried" }),
        ExchangeOutcome::Silence => json!({ "status": "no-answer" }),
        ExchangeOutcome::Unreachable(fault) => {
            json!({ "status": "not-sent", "what": fault.what, "remedy": fault.remedy })
        }
    };
    object["gateway"] = json!(result.gateway.to_string());
    object["knocks"] = json!(result.knocks);
    let ids: Vec<String> = result.ids.iter().map(ToString::to_string).collect();
    object["ids"] = json!(ids);
    object["id"] = json!(result.answered.map(|id| id.to_string()));
    object["named"] = json!(result.named.map(|named| named.source.to_string()));
    object["found"] = json!(result.named.map(|named| match named.origin {
        AddressOrigin::Given => "given",
        AddressOrigin::Local => "local",
        AddressOrigin::Probed => "probed",
    }));
    object
}

fn receipt_json(received: &ReceivedReceipt) -> Value {
    let receipt = &received.receipt;
    let mut object = json!({
        "status": receipt.status.word(),
        "observed": receipt.observed.to_string(),
        "address": receipt.granted.map(|source| source.to_string()),
        "net": net(receipt),
        "ports": ports(receipt),
        "once": null, "seconds": null, "until": null,
        // Positive: this machine's clock is behind.
        "clock_behind_ms": receipt.time.since(received.at) / 1_000_000,
    });
    if receipt.status == Status::Granted {
        object["once"] = json!(receipt.once);
        object["seconds"] = json!(receipt.seconds);
        object["until"] = json!(timestamp(until(received)).to_string());
    }
    object
}
