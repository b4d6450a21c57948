//! The host app's origins, as the configuration names them.

use crate::config::{Ancestor, Config};

/// Exact origins that may frame the chat: the pages that talk to it by messages. Wildcards cannot be written into
/// Rocket.Chat's lists.
pub(super) fn framing(config: &Config) -> Vec<&str> {
    let exact = config.framing.allowed_ancestors.iter().filter(|ancestor| matches!(ancestor, Ancestor::Exact(_)));
    let mut origins: Vec<&str> = exact.map(Ancestor::as_str).filter(|origin| *origin != config.server.public_origin.as_str()).collect();
    origins.dedup();
    origins
}

/// Whether the configuration knows this origin as one of the host app's.
pub(super) fn knows(config: &Config, origin: &str) -> bool {
    framing(config).contains(&origin) || config.cors.allowed_origins.iter().any(|allowed| allowed.as_str() == origin)
}
