//! A trusted proxy in front has authenticated the caller and says who it is in request headers.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::claims::{self, Fault};
use super::{Credentials, Identity, Material, SessionKey, Validated, misconfigured, no_session};
use crate::config::HeaderIdentity;
use crate::error::Refusal;
use crate::peer::Peer;

pub(super) const SOURCE: &str = "header";

/// The source.
#[derive(Debug)]
pub(super) struct TrustedHeader {
    names: HeaderIdentity,
}

/// What the headers said, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    id: String,
    username: Option<String>,
    email: Option<String>,
    name: Option<String>,
    roles: Option<String>,
}

impl TrustedHeader {
    pub(super) fn new(names: HeaderIdentity) -> Self {
        Self { names }
    }

    pub(super) fn credentials(&self, headers: &HeaderMap, peer: &Peer) -> Result<Credentials, Refusal> {
        if !peer.trusted {
            return Err(no_session(format!(
                "identity headers are believed from server.trusted_proxies only, and the peer {} is not in it",
                peer.ip()
            )));
        }
        let optional = |name: &Option<HeaderName>| name.as_ref().map_or(Ok(None), |name| one(headers, name));
        let id = one(headers, &self.names.id)?;
        let said = Said {
            id: id.ok_or_else(|| no_session(format!("the proxy in front sent no {} (identity.header.id)", self.names.id)))?,
            username: optional(&self.names.username)?,
            email: optional(&self.names.email)?,
            name: optional(&self.names.name)?,
            roles: optional(&self.names.roles)?,
        };
        Ok(Credentials { key: said.key(), material: Material::Said(Arc::new(said)) })
    }

    pub(super) fn identify(&self, said: &Said) -> Result<Validated, Refusal> {
        let named = |name: Option<&HeaderName>| {
            let name = name.unwrap_or(&self.names.id).clone();
            move |fault: Fault| misconfigured(format!("the header {name} {fault}"))
        };
        let optional = |value: &Option<String>| value.as_deref().map_or(Ok(None), claims::text_if_any);
        let id = claims::exact_text(&said.id).map_err(named(None))?;
        let username = optional(&said.username).map_err(named(self.names.username.as_ref()))?;
        let email = optional(&said.email).map_err(named(self.names.email.as_ref()))?;
        let name = optional(&said.name).map_err(named(self.names.name.as_ref()))?;
        let roles = claims::words(said.roles.as_deref().unwrap_or_default(), |c| c == ',').map_err(named(self.names.roles.as_ref()))?;
        let identity = Identity {
            username: username.unwrap_or_else(|| id.clone()),
            id,
            email: email.as_deref().map(claims::lowered),
            email_trusted: true,
            name,
            roles,
        };
        Ok(Validated { identity: Arc::new(identity), expires: None })
    }
}

impl Said {
    fn key(&self) -> SessionKey {
        let fields = [&self.username, &self.email, &self.name, &self.roles];
        // A missing field is no part, an empty one is; which one is missing is told by its place.
        let places: Vec<u8> = fields.iter().map(|field| u8::from(field.is_some())).collect();
        let values = fields.into_iter().flatten().map(String::as_bytes);
        SessionKey::of(SOURCE, [places.as_slice(), self.id.as_bytes()].into_iter().chain(values))
    }
}

/// The one value of a header; `None` when it is missing or blank.
fn one(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        // One of them may be the caller's own.
        return Err(misconfigured(format!("the header {name} came more than once: the proxy in front must replace it, not add to it")));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| misconfigured(format!("the header {name} is not UTF-8")))?;
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}
