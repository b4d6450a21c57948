//! What `gantry dev` adds to a configuration. Nothing of it can be written in `proxy.toml`, set by a
//! variable or reached by a request: a proxy that was not started by that command has none of it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::Origin;

/// The local dev proxy's own part of the configuration.
#[derive(Clone, Debug)]
pub struct Dev {
    /// Who is signed in.
    pub chosen: Chosen,
    /// Where the workspace really is.
    pub upstream: Origin,
    /// What the workspace calls itself (`Site_Url`), if that is known already.
    pub site: Option<String>,
    /// Whether the workspace's certificate is checked.
    pub verify: bool,
    /// Host apps on this machine: Rocket.Chat's client is told to exchange messages with them.
    pub apps: Vec<Origin>,
}

/// The username that was picked, on the command line or on the dev proxy's page. Every clone sees a change
/// at once.
#[derive(Clone, Debug, Default)]
pub struct Chosen(Arc<ArcSwapOption<Pick>>);

/// Somebody who was picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The username.
    pub username: String,
    /// The account's id, once it is known.
    pub user_id: Option<String>,
}

impl Chosen {
    /// Starts with this user, or with nobody.
    pub fn new(username: Option<String>) -> Self {
        let chosen = Self::default();
        chosen.set(username.map(|username| Pick { username, user_id: None }));
        chosen
    }

    /// Who it is now.
    pub fn get(&self) -> Option<Arc<Pick>> {
        self.0.load_full()
    }

    /// Makes it somebody else, or nobody.
    pub fn set(&self, pick: Option<Pick>) {
        self.0.store(pick.map(Arc::new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clone_sees_the_choice() {
        let chosen = Chosen::new(Some("ada".to_owned()));
        let other = chosen.clone();
        assert_eq!(other.get().map(|pick| pick.username.clone()).as_deref(), Some("ada"));
        chosen.set(None);
        assert_eq!(other.get(), None);
    }
}
