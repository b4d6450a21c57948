//! Who the host app's session says the caller is.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

use crate::error::Refusal;
use crate::peer::Peer;

/// What a validated host session says about a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Stable for ever, never re-used by the host app.
    pub id: String,
    /// The name wanted in Rocket.Chat.
    pub username: String,
    /// The e-mail address, lower-cased.
    pub email: Option<String>,
    /// False when the host app says that it has not verified the address.
    pub email_trusted: bool,
    /// The display name.
    pub name: Option<String>,
    /// The host app's roles.
    pub roles: Vec<String>,
}

/// A host session, as the SHA-256 of the credential that stands for it: the key of the caches.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey(pub [u8; 32]);

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// A validated session.
#[derive(Clone, Debug)]
pub struct Validated {
    /// Who it belongs to.
    pub identity: Arc<Identity>,
    /// When the credential itself runs out, if it says so (`exp` of a JWT).
    pub expires: Option<SystemTime>,
}

/// What a request presented as its host session.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The session's key in the caches.
    pub key: SessionKey,
}

/// Asks the configured source who a session belongs to.
#[derive(Debug)]
pub struct Validator {}

impl Validator {
    /// The source's name, a metric label.
    pub fn source(&self) -> &'static str {
        "header"
    }

    /// Takes what stands for the host session out of a request.
    ///
    /// # Errors
    /// The request carries none.
    pub fn credentials(&self, headers: &HeaderMap, peer: &Peer) -> Result<Credentials, Refusal> {
        let _ = (headers, peer);
        unimplemented!("lands with the identity module")
    }

    /// Who the session belongs to.
    ///
    /// # Errors
    /// No session, or it cannot be told.
    pub async fn identify(&self, credentials: &Credentials) -> Result<Validated, Refusal> {
        let _ = credentials;
        unimplemented!("lands with the identity module")
    }
}
