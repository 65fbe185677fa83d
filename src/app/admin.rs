//! `toctocd init`, `client add|list|revoke`, `status`, `grants`, `reload`: what an admin types on the gateway.
//! What a running gateway does is left to `gatekeeper`.
