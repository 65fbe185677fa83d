//! What policy foresees of a knock: the gateway's answer to `toctocd explain`.

use serde::{Deserialize, Serialize};

/// What policy foresees, as the gateway says it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Foreseen {
    /// `alice`, or `door web`.
    pub holder: String,
    pub service: String,
    /// Those that the client's line names.
    #[serde(default)]
    pub services: Vec<String>,
    pub grant: Option<ForeseenGrant>,
    pub refusal: Option<ForeseenRefusal>,
    /// How many grants there are of those that count.
    pub limits: Vec<Limit>,
    /// `sure`, or why every knock needs a challenge.
    pub clock: String,
    /// The window of a knock's timestamp, in seconds: its greatest age, and how far it may be ahead.
    pub window: [u32; 2],
    /// What else keeps a knock from opening anything.
    pub obstacles: Vec<Obstacle>,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ForeseenGrant {
    /// `192.0.2.7`, `2001:db8::/64`.
    pub address: String,
    pub seconds: u32,
    /// The most that this client may have of this service.
    pub form: String,
    pub ports: Vec<String>,
}

/// Why there is no grant.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ForeseenRefusal {
    /// The status of the receipt; `none` if there is no answer.
    pub status: String,
    pub why: String,
    pub remedy: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Limit {
    /// `alice`, `ssh`.
    pub of: String,
    pub grants: u32,
    pub most: u32,
}

/// What stops every knock, and what its client is told.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Obstacle {
    pub what: String,
    pub remedy: String,
    /// As for a refusal.
    pub status: String,
}
