//! What `toctocd check` finds: what certainly goes wrong, and what an admin should know.

use std::fmt::{self, Display, Formatter};

use serde_json::{Value, json};

/// One sentence, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// True if something certainly goes wrong, or is open. Such a configuration is not sound.
    pub(super) is_warning: bool,
    pub(super) text: String,
}

impl Finding {
    pub(super) fn warning(text: impl Into<String>) -> Finding {
        Finding { is_warning: true, text: text.into() }
    }

    pub(super) fn note(text: impl Into<String>) -> Finding {
        Finding { is_warning: false, text: text.into() }
    }

    pub(super) fn json(&self) -> Value {
        json!({ "kind": self.kind(), "text": self.text })
    }

    fn kind(&self) -> &'static str {
        if self.is_warning { "warning" } else { "note" }
    }
}

impl Display for Finding {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind(), self.text)
    }
}
